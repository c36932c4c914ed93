// The tiled attention family over T's tiles and V's lanes: formula in kernels.h.
//
// An item is up to 32 query rows of one sequence and one kv head, all inside one window of 32
// absolute positions, so all of them end in the same block of 64 keys. Keys and values of a block
// are brought into pair order once and meet every head and row of the item.
#pragma once

#include "attention.h"
#include "tiles.h"

namespace {

using namespace qwell;

// Keys [H][64] as B: for every 32 of d, tiles of 16 keys, pairs along d.
inline void pair_keys(const uint16_t* keys, int head_dim, uint8_t* to) {
  for (int d = 0; d < (head_dim + 31) / 32 * 32; d += 2)
    for (int j = 0; j < kVectors; j++) {
      uint16_t* pair = reinterpret_cast<uint16_t*>(to + (d / 32 * kVectors + j) * kTileBytes) + d % 32 * kLanes;
      if (d < head_dim) Bf16::zip(pair, keys + d * kPage + j * kLanes, keys + (d + 1) * kPage + j * kLanes);
      else std::memset(pair, 0, 64);
    }
}

// Values [64][H] as B: for each half of the keys, tiles of 16 of d, pairs along keys. Keys from
// `visible` on count as zero: what lies there is not of this sequence.
inline void pair_values(const uint16_t* values, int head_dim, int visible, uint8_t* to) {
  static constexpr uint16_t kNothing[kLanes] = {};
  for (int key = 0; key < kPage; key += 2)
    for (int j = 0; j < head_dim / kLanes; j++) {
      const uint16_t* row = values + key * head_dim + j * kLanes;
      uint8_t* tile = to + (key / 32 * (head_dim / kLanes) + j) * kTileBytes;
      Bf16::zip(reinterpret_cast<uint16_t*>(tile) + key % 32 * kLanes, key < visible ? row : kNothing,
                key + 1 < visible ? row + head_dim : kNothing);
    }
}

inline void tile_scores(const uint8_t* q, const uint8_t* keys, int steps, float (*scores)[kPage]) {
  constexpr int bytes = kPage * 4;
  T::template zero<0>(), T::template zero<1>(), T::template zero<2>(), T::template zero<3>();
  for (int s = 0; s < steps; s++, q += kStepBytes, keys += kVectors * kTileBytes) {
    T::template load<4>(q, 64);
    T::template load<5>(keys, 64), T::template dot<0, 4, 5>();
    T::template load<6>(keys + kTileBytes, 64), T::template dot<1, 4, 6>();
    T::template load<5>(keys + 2 * kTileBytes, 64), T::template dot<2, 4, 5>();
    T::template load<6>(keys + 3 * kTileBytes, 64), T::template dot<3, 4, 6>();
  }
  T::template store<0>(scores[0], bytes), T::template store<1>(scores[0] + kLanes, bytes);
  T::template store<2>(scores[0] + 2 * kLanes, bytes), T::template store<3>(scores[0] + 3 * kLanes, bytes);
}

// out[16][H] += p v, two tiles of d at a time where there are two.
inline void tile_values(const uint8_t* p, const uint8_t* values, int head_dim, float* out) {
  const int columns = head_dim / kLanes, bytes = head_dim * 4;
  T::template load<4>(p, 64), T::template load<5>(p + kTileBytes, 64);
  const uint8_t* late = values + columns * kTileBytes;  // keys 32 .. 63
  for (int j = 0; j < columns; j += 2, out += 2 * kLanes, values += kStepBytes, late += kStepBytes) {
    const bool two = j + 1 < columns;
    T::template load<0>(out, bytes), T::template load<6>(values, 64), T::template dot<0, 4, 6>();
    if (two) T::template load<1>(out + kLanes, bytes), T::template load<7>(values + kTileBytes, 64);
    if (two) T::template dot<1, 4, 7>();
    T::template load<6>(late, 64), T::template dot<0, 5, 6>(), T::template store<0>(out, bytes);
    if (!two) continue;
    T::template load<7>(late + kTileBytes, 64), T::template dot<1, 5, 7>();
    T::template store<1>(out + kLanes, bytes);
  }
}

// One block of keys for rows [0, rows) of one head, up to 16. `visible` is of row 0, the others
// see one key more each; 64 at most.
inline void attend_tile(const TileScratch& s, const uint8_t* q, int rows, int visible, int head_dim, float* top,
                        float* sum, float* out) {
  const V::F scale = V::set1(1.0f / std::sqrt(float(head_dim)));
  tile_scores(q, s.keys, s.steps, s.scores);
  for (int r = 0; r < rows; r++) {
    for (int j = 0; j < kPage; j += kLanes) V::store(s.scores[r] + j, V::mul(V::load(s.scores[r] + j), scale));
    const V::F factor = V::set1(block_softmax(s.scores[r], std::min(visible + r, kPage), top[r], sum[r]));
    for (int j = 0; j < kVectors; j++)
      Bf16::store(reinterpret_cast<uint16_t*>(s.p + j / 2 * kTileBytes + r * 64) + j % 2 * kLanes,
                  V::load(s.scores[r] + j * kLanes));
    for (int d = 0; d < head_dim; d += kLanes)
      V::store(out + r * head_dim + d, V::mul(V::load(out + r * head_dim + d), factor));
  }
  tile_values(s.p, s.values, head_dim, out);
}

inline void begin_item(const AttentionItem& item, const TileScratch& s) {
  const int H = item.head_dim;
  for (int head = 0; head < item.group; head++)
    for (int r = 0; r < item.rows; r++) {
      pack_tiles(item.q + r * item.stride + head * H, 0, H, r, 1, kTileRows, s.q + head * tile_input_bytes(kTileRows, H));
      s.top[head * kTileRows + r] = -INFINITY, s.sum[head * kTileRows + r] = 0.0f;
    }
  std::memset(s.out, 0, int64_t(item.group) * kTileRows * H * 4);
}

inline void end_item(const AttentionItem& item, const TileScratch& s) {
  const int H = item.head_dim;
  for (int head = 0; head < item.group; head++)
    for (int r = 0; r < item.rows; r++) {
      const int at = head * kTileRows + r;
      for (int d = 0; d < H; d += kLanes)
        V::store(item.out + r * item.stride + head * H + d,
                 V::div(V::load(s.out + int64_t(at) * H + d), V::set1(s.sum[at])));
    }
}

// Whether the values that some rows of the item see and others do not are numbers: only then is
// p = 0 enough to hide them.
inline bool hidden_are_finite(const AttentionItem& item) {
  const int H = item.head_dim, first = item.first_position % kPage + 1;
  const uint16_t* values = open_page(item, item.first_position / kPage, 0) + H * kPage;
  V::F not_finite = V::set1(0.0f);
  for (int i = first * H; i < (first + item.rows - 1) * H; i += kLanes)
    not_finite = V::fma(V::load_bf16(values + i), V::set1(0.0f), not_finite);
  return V::sum(not_finite) == 0.0f;
}

void attention_tiles(const AttentionItem& item, uint8_t* memory) {
  const int H = item.head_dim, last = item.first_position / kPage;
  if (item.rows > 1 && !hidden_are_finite(item)) {  // one by one: a row must not meet what it does not see
    for (int r = 0; r < item.rows; r++) {
      AttentionItem one = item;
      one.q += r * item.stride, one.out += r * item.stride, one.rows = 1, one.first_position += r;
      attention_tiles(one, memory);
    }
    return;
  }
  const TileScratch s(memory, item.group, H);
  begin_item(item, s);
  for (int b = 0; b <= last; b++) {
    const int visible = b < last ? kPage : item.first_position % kPage + 1;
    const uint16_t* page = open_page(item, b, 0);
    pair_keys(page, H, s.keys);
    pair_values(page + H * kPage, H, std::min(visible + item.rows - 1, kPage), s.values);
    for (int head = 0; head < item.group; head++)
      for (int r = 0; r < item.rows; r += 16) {
        const int at = head * kTileRows + r;
        attend_tile(s, s.q + head * tile_input_bytes(kTileRows, H) + r / 16 * kTileBytes, std::min(16, item.rows - r), visible + r,
                    H, s.top + at, s.sum + at, s.out + int64_t(at) * H);
      }
  }
  end_item(item, s);
}

}  // namespace
