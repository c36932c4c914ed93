// The linear family over V's sixteen lanes: formulas of kernels.h, written once.
//
// dot_panel multiplies one panel with up to four rows and reads it once, the decode path. More rows take
// k in chunks: a chunk is unpacked (one byte a weight, scales and minima as float) and meets all rows,
// their sums wait in the tile; 8-bit panels are read as they are. The same formula, so the same bits.
#pragma once

#include <cstring>

#include "panel.h"

namespace {

template <class W>
inline int32_t group_sum(const int32_t* sums, int g, int sub) {
  if constexpr (W::group == kLanes) return sums[2 * g + sub];
  return sums[2 * g] + sums[2 * g + 1];
}

// acc[m][h] += group g of H neighbouring halves for M rows, which stands at `place` of their q, or
// of their rest. The lines stay in registers while the rows pass.
template <bool rest, class W, int M, int H>
QWELL_INLINE void add_group(const W& w, int g, int place, int half, const Row* x, V::F (*acc)[2]) {
  constexpr int n = W::group / 4;
  Rows8 rows[H];
  for (int h = 0; h < H; h++) rows[h] = w.rows(g, half + h);
  for (int sub = 0; sub < kGroup / W::group; sub++) {
    const int8_t* a[M];
    int32_t total[M];
    V::I dot[M][H];
    for (int m = 0; m < M; m++) {
      a[m] = (rest ? x[m].rest : x[m].q) + int64_t(place) * kGroup + sub * W::group;
      total[m] = group_sum<W>(rest ? x[m].rest_sum : x[m].sum, place, sub);
      for (int h = 0; h < H; h++) dot[m][h] = V::template start<W::bits>(W::zero, total[m]);
    }
    const V::B* lines[H];
    for (int h = 0; h < H; h++) lines[h] = rows[h].row + sub * n;
    V::template dot_rows<W::bits, n, M>(dot, lines, a);
    V::F scale[H], min[H];
    for (int h = 0; h < H; h++) {
      scale[h] = w.scale(g, sub, half + h);
      if constexpr (W::mins) min[h] = V::neg(w.min(g, sub, half + h));
    }
#pragma GCC unroll 4
    for (int m = 0; m < M; m++) {
      const float s = (rest ? x[m].rest_scale : x[m].scale)[place];
      const float scaled = !rest && W::group == kGroup ? x[m].scaled_sum[place] : float(total[m]) * s;
#pragma GCC unroll 2
      for (int h = 0; h < H; h++) {
        V::F& sum = acc[m][half + h];
        sum = V::fma(V::to_float(dot[m][h]), V::mul(scale[h], V::set1(s)), sum);
        if constexpr (W::mins) sum = V::fma(min[h], V::set1(scaled), sum);
      }
    }
  }
}

// What the loud groups of one row add to its two halves.
template <Format F>
[[gnu::noinline]] void add_rests(const Packed<F, false>& w, const Row& x, float* tile) {
  V::F acc[1][2] = {{V::load(tile), V::load(tile + kLanes)}};
  for (int i = 1; i <= x.loud[0]; i++)
#pragma GCC unroll 2
    for (int half = 0; half < 2; half += V::kHalves)
      add_group<true, Packed<F, false>, 1, V::kHalves>(w, x.loud[i], i - 1, half, &x, acc);
  V::store(tile, acc[0][0]), V::store(tile + kLanes, acc[0][1]);
}

// The panel that follows, asked for line by line while this one is multiplied: of many lines in one
// burst most are lost (LOG.md, 2026-11-26, fourth stretch).
struct NextPanel {
  const uint8_t *next, *end;
  int lines;          // with every group
  int64_t again = 0;  // so many bytes later a line is asked for once more, lest it was dropped; 0: never
  QWELL_INLINE void ask() {
    if (next >= end) return;
    for (int i = 0; again && i < lines; i++) V::prefetch(next - again + 64 * i);
    for (int i = 0; i < lines; i++) V::prefetch(next + 64 * i);
    next += 64 * lines;
  }
};

// Groups [first, end) of a panel against M rows, added to `tile` unless first is 0.
template <class W, int M>
inline void dot_groups(const W& w, int first, int end, const Row* x, float* tile, int64_t stride,
                       NextPanel* following) {
  V::F acc[M][2];
  for (int m = 0; m < M; m++)
    for (int half = 0; half < 2; half++)
      acc[m][half] = first ? V::load(tile + m * stride + half * kLanes) : V::set1(0.0f);
  for (int g = first; g < end; g++) {
    if (following) following->ask();
#pragma GCC unroll 2
    for (int half = 0; half < 2; half += V::kHalves) add_group<false, W, M, V::kHalves>(w, g, g, half, x, acc);
  }
  for (int m = 0; m < M; m++)
    for (int half = 0; half < 2; half++) V::store(tile + m * stride + half * kLanes, acc[m][half]);
}

template <class W, int M>
inline void dot_panel(const W& w, int k, const Row* x, float* tile, int64_t stride) {
  dot_groups<W, M>(w, 0, k / kGroup, x, tile, stride, nullptr);
  for (int m = 0; m < M; m++)
    if (x[m].loud[0]) add_rests(w.still(), x[m], tile + m * stride);
}

template <class W>
inline void dot_few(const W& w, int k, const Row* x, int m, float* tile, int64_t stride) {
  switch (m) {
    case 1: return dot_panel<W, 1>(w, k, x, tile, stride);
    case 2: return dot_panel<W, 2>(w, k, x, tile, stride);
    case 3: return dot_panel<W, 3>(w, k, x, tile, stride);
    default: return dot_panel<W, 4>(w, k, x, tile, stride);
  }
}

// More rows than four, chunk by chunk: W reads chunks of the panel `from`.
template <Format F, class W>
inline void dot_many(const Packed<F, false>& from, W w, int k, const Row* x, int rows, float* tile, int64_t stride,
                     NextPanel following) {
  // The last block of four reaches back over rows already done: the same bits once more, put elsewhere.
  float again[4 * kPanel];
  const int whole = rows / 4 * 4, groups = k / kGroup;
  for (int g = 0; g < groups; g += W::chunk) {
    const int end = std::min(g + W::chunk, groups);
    w.fill(from, g, end);
    for (int r = 0; r < whole; r += 4) dot_groups<W, 4>(w, g, end, x + r, tile + r * stride, stride, &following);
    if (whole < rows) dot_groups<W, 4>(w, g, end, x + rows - 4, again, kPanel, &following);
  }
  for (int r = whole; r < rows; r++)
    std::memcpy(tile + r * stride, again + (r - rows + 4) * kPanel, kPanel * sizeof(float));
  for (int r = 0; r < rows; r++)
    if (x[r].loud[0]) add_rests(from, x[r], tile + r * stride);
}

template <Format F>
void linear_integer(const uint8_t* panel, int k, const Row* x, int rows, float* tile, int64_t stride,
                    uint8_t* scratch) {
  if (rows <= 0) return;
  if (rows <= 4) return dot_few<Packed<F>>({panel}, k, x, rows, tile, stride);
  // Memory has nothing to do while the rows pass.
  const int64_t bytes = int64_t(k) / Block<F>::inputs * Block<F>::bytes;
  const int64_t steps = int64_t(k / kGroup) * (rows / 4);
  const NextPanel following{panel + bytes, panel + 2 * bytes, int((bytes / 64 + steps - 1) / steps), bytes / 2};
  const Packed<F, false> from{panel};
  if constexpr (Traits<F>::bits == 8) dot_many(from, from, k, x, rows, tile, stride, following);
  else dot_many(from, Unpacked<F>(scratch), k, x, rows, tile, stride, following);
}

// Sixteen outputs of the first or second (parity) of two inputs, which lie at p.
struct LoadF32 {
  static constexpr int bytes = 4;
  static V::F load(const uint8_t* p, int parity, int half) {
    return V::load(reinterpret_cast<const float*>(p) + parity * kPanel + half * kLanes);
  }
};
struct LoadF16 {
  static constexpr int bytes = 2;
  static V::F load(const uint8_t* p, int parity, int half) {
    return V::load_f16(p + (parity * kPanel + half * kLanes) * bytes);
  }
};
struct LoadBF16 {
  static constexpr int bytes = 2;
  static V::F load(const uint8_t* p, int parity, int half) {
    p += half * kLanes * 2 * bytes;
    return parity ? V::odd_bf16(p) : V::even_bf16(p);
  }
};

template <class L, int M>
inline void dot_float(const uint8_t* panel, int k, const Row* x, float* tile, int64_t stride) {
  V::F acc[2][M][2];  // [parity of k][row][half]
#pragma GCC unroll 2
  for (int parity = 0; parity < 2; parity++)
#pragma GCC unroll 4
    for (int m = 0; m < M; m++) acc[parity][m][0] = acc[parity][m][1] = V::set1(0.0f);
  for (int i = 0; i < k; i += 2) {
    const uint8_t* p = panel + int64_t(i) * kPanel * L::bytes;
    prefetch_floats(p, 2 * kPanel * L::bytes / 64);
#pragma GCC unroll 2
    for (int parity = 0; parity < 2; parity++)
#pragma GCC unroll 2
      for (int half = 0; half < 2; half++) {
        V::F w = L::load(p, parity, half);
#pragma GCC unroll 4
        for (int m = 0; m < M; m++)
          acc[parity][m][half] = V::fma(w, V::set1(x[m].f32[i + parity]), acc[parity][m][half]);
      }
  }
#pragma GCC unroll 4
  for (int m = 0; m < M; m++)
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++)
      V::store(tile + m * stride + half * kLanes, V::add(acc[0][m][half], acc[1][m][half]));
}

template <class L>
void linear_float(const uint8_t* panel, int k, const Row* x, int rows, float* tile, int64_t stride, uint8_t*) {
  for (int r = 0; r < rows; r += 4) {
    float* t = tile + r * stride;
    switch (rows - r) {
      case 1: dot_float<L, 1>(panel, k, x + r, t, stride); break;
      case 2: dot_float<L, 2>(panel, k, x + r, t, stride); break;
      case 3: dot_float<L, 3>(panel, k, x + r, t, stride); break;
      default: dot_float<L, 4>(panel, k, x + r, t, stride);
    }
  }
}

}  // namespace
