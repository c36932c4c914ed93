// BF16 matrices and attention where vectors multiply pairs of bf16 (formula: kernels.h, "pairs"): twice as
// fast as in float32. Written once over V, Bf16 and Pairs.
#pragma once

#include "linear.h"
#include "tile_units.h"

namespace {

using namespace qwell;

// A matrix in BF16.

inline constexpr int kPairBytes = 4 * kPanel;  // of two inputs of a panel
inline constexpr int kPairChunk = 224;         // pairs that all rows pass: 28 KB, which stay in a first cache of 48
inline constexpr int kPairRows = 8;            // rows whose sums are in registers

void round_row(const float* x, int k, uint16_t* to) {
  int i = 0;
  for (; i + kLanes <= k; i += kLanes) Bf16::store(to + i, V::load(x + i));
  alignas(64) uint16_t rest[kLanes];
  Bf16::store(rest, load_part(x + i, k - i));
  std::memcpy(to + i, rest, (k - i) * sizeof(uint16_t));
}

// `count` pairs of a panel against M rows from input `from` on, added to `tile` unless that is 0.
template <int M>
inline void dot_pairs(const uint8_t* lines, int count, const Row* x, int from, float* tile, int64_t stride,
                      NextPanel* following) {
  V::F acc[M][2];
  const uint16_t* row[M];
#pragma GCC unroll 8
  for (int m = 0; m < M; m++) {
    row[m] = x[m].bf16 + from;
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++)
      acc[m][half] = from ? V::load(tile + m * stride + half * kLanes) : V::set1(0.0f);
  }
  for (int i = 0; i < count; i++, lines += kPairBytes) {
    const V::B low = V::loadb(lines), high = V::loadb(lines + 64);
    if (!following) prefetch_floats(lines, 2);
    else if (i % 16 == 0) following->ask();
#pragma GCC unroll 8
    for (int m = 0; m < M; m++) {
      acc[m][0] = Pairs::dot(acc[m][0], low, row[m] + 2 * i);
      acc[m][1] = Pairs::dot(acc[m][1], high, row[m] + 2 * i);
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; m++)
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) V::store(tile + m * stride + half * kLanes, acc[m][half]);
}

inline void dot_some_pairs(int rows, const uint8_t* lines, int count, const Row* x, int from, float* tile,
                           int64_t stride, NextPanel* following) {
  switch (rows) {
    case 1: return dot_pairs<1>(lines, count, x, from, tile, stride, following);
    case 2: return dot_pairs<2>(lines, count, x, from, tile, stride, following);
    case 3: return dot_pairs<3>(lines, count, x, from, tile, stride, following);
    case 4: return dot_pairs<4>(lines, count, x, from, tile, stride, following);
    case 5: return dot_pairs<5>(lines, count, x, from, tile, stride, following);
    case 6: return dot_pairs<6>(lines, count, x, from, tile, stride, following);
    case 7: return dot_pairs<7>(lines, count, x, from, tile, stride, following);
    default: return dot_pairs<kPairRows>(lines, count, x, from, tile, stride, following);
  }
}

void linear_pairs(const uint8_t* panel, int k, const Row* x, int rows, float* tile, int64_t stride, uint8_t*) {
  if (rows <= 0) return;
  const int pairs = k / 2, blocks = (rows + kPairRows - 1) / kPairRows;
  if (blocks == 1) return dot_some_pairs(rows, panel, pairs, x, 0, tile, stride, nullptr);
  // Memory has nothing to do while the rows pass.
  const int64_t bytes = int64_t(pairs) * kPairBytes, asks = int64_t((pairs + 15) / 16) * blocks;
  NextPanel following{panel + bytes, panel + 2 * bytes, int((bytes / 64 + asks - 1) / asks)};
  for (int at = 0; at < pairs; at += kPairChunk)
    for (int r = 0; r < rows; r += kPairRows)
      dot_some_pairs(std::min(kPairRows, rows - r), panel + int64_t(at) * kPairBytes, std::min(kPairChunk, pairs - at),
                     x + r, 2 * at, tile + r * stride, stride, &following);
}

// Attention.

// M rows of A tiles (`steps` of 32 inputs, 16 rows each) against N vectors of each pair's line, added to c
// unless they are the first.
template <int M, int N>
inline void dot_unit(const uint8_t* a, int steps, const uint8_t* b, int64_t b_stride, bool first, float* c,
                     int64_t c_stride, NextPanel& following) {
  V::F acc[M][N];
#pragma GCC unroll 4
  for (int m = 0; m < M; m++)
#pragma GCC unroll 4
    for (int j = 0; j < N; j++) acc[m][j] = first ? V::set1(0.0f) : V::load(c + m * c_stride + j * kLanes);
  for (int step = 0; step < steps; step++, a += kTileBytes)
    for (int pair = 0; pair < 16; pair++, b += b_stride) {
      following.ask();
      V::B line[N];
#pragma GCC unroll 4
      for (int j = 0; j < N; j++) line[j] = V::loadb(b + 64 * j);
#pragma GCC unroll 4
      for (int m = 0; m < M; m++)
#pragma GCC unroll 4
        for (int j = 0; j < N; j++)
          acc[m][j] = Pairs::dot(acc[m][j], line[j], reinterpret_cast<const uint16_t*>(a + 64 * m) + 2 * pair);
    }
#pragma GCC unroll 4
  for (int m = 0; m < M; m++)
#pragma GCC unroll 4
    for (int j = 0; j < N; j++) V::store(c + m * c_stride + j * kLanes, acc[m][j]);
}

template <int N>
inline void dot_units(int rows, const uint8_t* a, int steps, const uint8_t* b, int64_t b_stride, bool first, float* c,
                      int64_t c_stride, NextPanel& following) {
  for (; rows > 0; rows -= 4, a += 4 * 64, c += 4 * c_stride) switch (rows) {
      case 1: dot_unit<1, N>(a, steps, b, b_stride, first, c, c_stride, following); break;
      case 2: dot_unit<2, N>(a, steps, b, b_stride, first, c, c_stride, following); break;
      case 3: dot_unit<3, N>(a, steps, b, b_stride, first, c, c_stride, following); break;
      default: dot_unit<4, N>(a, steps, b, b_stride, first, c, c_stride, following);
    }
}

// Unit by unit: the scores, their weights, the values.
struct TileWalk : TileUnits {
  NextPanel page_behind = {};

  void run() {
    for (int u = 0; u < count(); u++) {
      now = unit_at(u);
      page_behind = asked(u);
      scores();
      tops();
      for (int r = 0; r < now.rows; r++) weights(r);
      rescale_out(now);
      for (int d = 0; d < H; d += 64) values(d);
    }
  }
  // The page behind the unit's, dealt out over its products: the first tile asks for it.
  NextPanel asked(int u) const {
    const uint8_t* next = next_page(u);
    const int blocks = (now.rows + 3) / 4, pairs = blocks * (16 * s.steps + 32 * ((H + 63) / 64));
    return {next, next ? next + H * 256 : next, (H * 4 + pairs - 1) / pairs};
  }
  void scores() {
    constexpr int line = kPage * 4;
    float* to = s.scores[now.slot][0];
    dot_units<4>(now.rows, now.q, H / 32, now.keys, line, true, to, kPage, page_behind);
    if (H % 32 == 0) return;
    std::memcpy(s.tail, now.keys + H / 32 * 16 * line, 8 * line);  // zeros behind it
    dot_units<4>(now.rows, now.q + H / 32 * kTileBytes, 1, s.tail, line, H < 32, to, kPage, page_behind);
  }
  void values(int d) {
    const uint8_t *p = s.p + now.slot * 2 * kTileBytes, *v = now.values + d * 4;
    float* to = now.out + d;
    switch ((H - d) / kLanes) {
      case 1: return dot_units<1>(now.rows, p, 2, v, H * 4, now.first, to, H, page_behind);
      case 2: return dot_units<2>(now.rows, p, 2, v, H * 4, now.first, to, H, page_behind);
      case 3: return dot_units<3>(now.rows, p, 2, v, H * 4, now.first, to, H, page_behind);
      default: return dot_units<4>(now.rows, p, 2, v, H * 4, now.first, to, H, page_behind);
    }
  }
};

}  // namespace

#include "tile_attention.h"

#define QWELL_PAIR_TABLE                                                                      \
  {                                                                                           \
    linear_pairs, round_row, { attention_tiles, attention_tiles_part, attention_tiles_merge } \
  }
