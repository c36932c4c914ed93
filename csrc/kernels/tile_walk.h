// Tiled attention over T's tiles, a pipeline over units: while the vector lanes make weights of the scores of
// unit u, the tile unit multiplies the scores of u + 1 and the values of u - 1. Its products are dealt out
// between the rows of the softmax: tiles and lanes are different parts of the processor and work at the
// same time. Tiles load keys and values straight from the pages.
#pragma once

#include "tile_units.h"

namespace {

using namespace qwell;

struct TileWalk : TileUnits {
  float* pending[4] = {};                // where sums in tiles 0 .. 3 go,
  int64_t stride_of[4] = {};             // bytes from row to row
  TileUnit before = {}, behind = {};     // units u - 1 and u + 1
  int score_slots = 0, value_slots = 0;  // of this unit

  // Sums stay in tiles 0 .. 3 until their tile is wanted again: a store waits for the last product.
  template <int j>
  void retire() {
    if (pending[j]) T::template store<j>(pending[j], stride_of[j]);
    pending[j] = nullptr;
  }
  void flush() { retire<0>(), retire<1>(), retire<2>(), retire<3>(); }

  // One product of the scores of unit `behind`: keys 16 j .. 16 j + 15 over 32 of d.
  template <int j>
  void score_slot(int step) {
    constexpr int stride = kPage * 4, b = 5 + j % 3;
    const uint8_t* keys = behind.keys + int64_t(step) * 4 * kTileBytes;
    if ((step + 1) * 32 > H) {
      if (j == 0) std::memcpy(s.tail, keys, 2 * kTileBytes);
      keys = s.tail;
    }
    if (j == 0) T::template load<4>(behind.q + step * kTileBytes, 64);
    if (step == 0) retire<j>(), T::template zero<j>();
    T::template load<b>(keys + 64 * j, stride), T::template dot<j, 4, b>();
    if (step + 1 == s.steps) pending[j] = s.scores[behind.slot][0] + kLanes * j, stride_of[j] = stride;
  }

  // One product of the values of unit `before`: 16 of d over half of the keys.
  template <int j>
  void value_slot(int column, int half) {
    constexpr int b = 5 + j % 3;
    const int stride = H * 4;
    float* out = before.out + column + kLanes * j;
    if (half == 0) retire<j>();
    if (column + kLanes * j >= H) return;
    if (j == 0) T::template load<4>(s.p + (before.slot * 2 + half) * kTileBytes, 64);
    if (half == 0) {
      if (before.first) T::template zero<j>();
      else T::template load<j>(out, stride);
    }
    T::template load<b>(before.values + int64_t(half) * kPage * H + column * 4 + 64 * j, stride);
    T::template dot<j, 4, b>();
    if (half == 1) pending[j] = out, stride_of[j] = stride;
  }

  template <int j>
  void slot(int k) {
    if (k < score_slots) return score_slot<j>(k / 4);
    k -= score_slots;
    if (k == 0) {
      if (moved[before.slot] || score_slots == 0) flush();
      rescale_out(before);
    }
    value_slot<j>(k / 8 * 64, k / 4 % 2);
  }
  void slot(int k) {
    switch (k % 4) {
      case 0: return slot<0>(k);
      case 1: return slot<1>(k);
      case 2: return slot<2>(k);
      case 3: return slot<3>(k);
    }
  }

  void run() {
    const int scores = 4 * s.steps, values = (H + 63) / 64 * 8;
    behind = unit_at(0), score_slots = scores;
    for (int k = 0; k < scores; k++) slot(k);
    flush();
    for (int u = 0; u < count(); u++) {
      before = now, now = behind, behind = unit_at(std::min(u + 1, count() - 1));
      score_slots = u + 1 < count() ? scores : 0, value_slots = u > 0 ? values : 0;
      unit(u);
    }
    before = now, score_slots = 0;
    for (int k = 0; k < values; k++) slot(k);
    flush();
  }

  // The unit's weights, with the products of its neighbours between them.
  void unit(int u) {
    tops();
    const int slots = score_slots + value_slots;
    for (int r = 0, due = 0, k = 0; r < now.rows; r++) {
      weights(r);
      for (due += slots; due >= now.rows; due -= now.rows) slot(k++);
      prefetch(u, r);
    }
    if (value_slots == 0) flush();
  }
};

}  // namespace
