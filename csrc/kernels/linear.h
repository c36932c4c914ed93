// The linear family over V's sixteen lanes: formulas of kernels.h, written once.
//
// dot_panel multiplies one panel with up to four rows and reads it once, the decode path. More rows
// unpack the panel first (one byte a weight, scales and minima as float) and run the same formula
// over the unpacked panel, so the cost of unpacking is shared and the bits are the same.
#pragma once

#include <cstring>
#include <type_traits>

#include "../kernels.h"

namespace {

using namespace qwell;

// A panel is a stream: lines are asked for so far ahead that memory, not its latency, is the limit.
// Into the second-level cache; the distance is a compromise between two kinds of CPU (LOG.md, 2026-11-26).
inline constexpr int kAhead = 4608;
inline void prefetch_ahead(const uint8_t* p, int lines) {
  for (int i = 0; i < lines; i++) V::prefetch(p + kAhead + 64 * i);
}

// For what a hot loop must not call: eight registers of lines would go through memory.
#ifdef QWELL_PLAIN  // plain loops: whatever is unrolled and inlined takes the compiler minutes
#define QWELL_INLINE inline
#define QWELL_UNROLL
#else
#define QWELL_INLINE [[gnu::always_inline]] inline
#define QWELL_UNROLL _Pragma("GCC unroll 16")
#endif

// The eight rows of 32 inputs x 16 columns as unsigned bytes.
struct Rows8 {
  V::B row[8];
};

// How a panel is read: packed blocks of format F, or the unpacked panel made from one. A stream asks
// for what it reads next.
template <Format F, bool kStream = true>
struct Packed {
  using T = Traits<F>;
  using L = Block<F>;
  static constexpr int bits = T::bits, zero = T::zero, group = T::group;
  static constexpr bool mins = T::mins;
  // Bytes and lines of one half of 32 inputs, its share of the block's scales included.
  static constexpr int kShare = L::bytes / (L::inputs / kGroup) / 2, kLines = (kShare + 63) / 64;
  const uint8_t* panel;

  const uint8_t* block(int g) const { return panel + int64_t(g / (L::inputs / kGroup)) * L::bytes; }

  QWELL_INLINE Rows8 rows(int g, int half) const {
    const uint8_t* p = block(g) + (g % (L::inputs / kGroup)) * L::group_bytes;
    if constexpr (kStream) prefetch_ahead(block(g) + (g % (L::inputs / kGroup) * 2 + half) * kShare, kLines);
    Rows8 r;
    if constexpr (bits == 8) {
      for (int i = 0; i < 8; i++) r.row[i] = V::loadb(p + half * 512 + 64 * i);
      return r;
    }
    for (int i = 0; i < 4; i++) {
      V::B line = V::loadb(p + half * 256 + 64 * i);
      r.row[i] = V::low_nibble(line);
      r.row[i + 4] = V::high_nibble(line);
    }
    if constexpr (bits == 5) {
      V::B plane = V::loadb(p + L::high + half * 64);
      r.row[0] = V::or_bit5<0>(r.row[0], plane), r.row[1] = V::or_bit5<1>(r.row[1], plane);
      r.row[2] = V::or_bit5<2>(r.row[2], plane), r.row[3] = V::or_bit5<3>(r.row[3], plane);
      r.row[4] = V::or_bit5<4>(r.row[4], plane), r.row[5] = V::or_bit5<5>(r.row[5], plane);
      r.row[6] = V::or_bit5<6>(r.row[6], plane), r.row[7] = V::or_bit5<7>(r.row[7], plane);
    }
    if constexpr (bits == 6) {
      for (int i = 0; i < 2; i++) {
        V::B plane = V::loadb(p + L::high + half * 128 + 64 * i);
        V::B* x = r.row + 4 * i;
        x[0] = V::or_bits56<0>(x[0], plane), x[1] = V::or_bits56<1>(x[1], plane);
        x[2] = V::or_bits56<2>(x[2], plane), x[3] = V::or_bits56<3>(x[3], plane);
      }
    }
    return r;
  }

  // Weight scale and minimum of sub-group `sub` (0, or 0 and 1 for groups of 16) of 32-group g.
  // f16 times a small integer is exact in float.
  V::F scale(int g, int sub, int half) const {
    const uint8_t* b = block(g);
    V::F s = V::load_f16(b + L::scale + 32 * half);
    if constexpr (T::kSuper) s = V::mul(s, V::load_i8(b + L::sub_scale + sub_index(g, sub) + 16 * half));
    return s;
  }
  V::F min(int g, int sub, int half) const {
    const uint8_t* b = block(g);
    V::F m = V::load_f16(b + L::min + 32 * half);
    if constexpr (T::kSuper) m = V::mul(m, V::load_i8(b + L::sub_min + sub_index(g, sub) + 16 * half));
    return m;
  }
  static int sub_index(int g, int sub) { return ((g % (L::inputs / kGroup)) * (kGroup / group) + sub) * kPanel; }
};

// Groups of a panel that stay in the first-level cache, unpacked, beside the packed ones and some rows.
inline constexpr int kChunk = 14;

// One chunk of a panel, unpacked: [g][half][8 rows][64] bytes, then floats [g][sub][half][16] of
// scales and, at the same place in a second array, minima.
template <Format F>
struct Unpacked {
  using T = Traits<F>;
  static constexpr int bits = T::bits, zero = T::zero, group = T::group;
  static constexpr bool mins = T::mins;
  uint8_t* bytes;
  float *scales, *minima;
  int first = 0;  // group of the panel

  explicit Unpacked(uint8_t* scratch)
      : bytes(scratch),
        scales(reinterpret_cast<float*>(scratch + kChunk * kGroup * kPanel)),
        minima(scales + kChunk * (kGroup / kLanes) * kPanel) {}

  uint8_t* lines(int g, int half) const { return bytes + (2 * int64_t(g - first) + half) * 512; }
  Rows8 rows(int g, int half) const {
    Rows8 r;
    for (int i = 0; i < 8; i++) r.row[i] = V::loadb(lines(g, half) + 64 * i);
    return r;
  }
  int64_t index(int g, int sub, int half) const {
    return ((int64_t(g - first) * (kGroup / group) + sub) * 2 + half) * kLanes;
  }
  V::F scale(int g, int sub, int half) const { return V::load(scales + index(g, sub, half)); }
  V::F min(int g, int sub, int half) const { return V::load(minima + index(g, sub, half)); }

  void fill(const Packed<F, false>& from, int begin, int end) {
    first = begin;
    for (int g = begin; g < end; g++)
      for (int half = 0; half < 2; half++) {
        const Rows8 r = from.rows(g, half);
        for (int i = 0; i < 8; i++) V::storeb(lines(g, half) + 64 * i, r.row[i]);
        for (int sub = 0; sub < kGroup / group; sub++) {
          V::store(scales + index(g, sub, half), from.scale(g, sub, half));
          if constexpr (mins) V::store(minima + index(g, sub, half), from.min(g, sub, half));
        }
      }
  }
};

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
      const float scaled = !rest && W::group == kGroup ? x[m].scaled[place] : float(total[m]) * s;
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
template <class W>
[[gnu::noinline]] void add_rests(const W& w, const Row& x, float* tile) {
  V::F acc[1][2] = {{V::load(tile), V::load(tile + kLanes)}};
  for (int i = 1; i <= x.loud[0]; i++)
#pragma GCC unroll 2
    for (int half = 0; half < 2; half += V::kHalves)
      add_group<true, W, 1, V::kHalves>(w, x.loud[i], i - 1, half, &x, acc);
  V::store(tile, acc[0][0]), V::store(tile + kLanes, acc[0][1]);
}

// The panel that follows, asked for line by line while this one is multiplied.
struct Ahead {
  const uint8_t *next, *end;
  int lines;  // with every group
  QWELL_INLINE void step() {
    if (next >= end) return;
    for (int i = 0; i < lines; i++) V::prefetch(next + 64 * i);
    next += 64 * lines;
  }
};

// Groups [first, end) of a panel against M rows, added to `tile` unless first is 0.
template <class W, int M>
inline void dot_groups(const W& w, int first, int end, const Row* x, float* tile, int64_t stride, Ahead* ahead) {
  V::F acc[M][2];
  for (int m = 0; m < M; m++)
    for (int half = 0; half < 2; half++)
      acc[m][half] = first ? V::load(tile + m * stride + half * kLanes) : V::set1(0.0f);
  for (int g = first; g < end; g++) {
    if (ahead) ahead->step();
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
    if (x[m].loud[0]) add_rests(w, x[m], tile + m * stride);
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

// More rows than four, chunk by chunk: `from` is the packed panel, W reads a chunk of it.
template <class P, class W>
inline void dot_many(const P& from, W w, int k, const Row* x, int rows, float* tile, int64_t stride, Ahead ahead) {
  // The last block of four reaches back over rows already done: the same bits once more, put elsewhere.
  float again[4 * kPanel];
  constexpr bool unpacks = !std::is_same_v<P, W>;
  constexpr int chunk = unpacks ? kChunk : 2 * kChunk;
  const int whole = rows / 4 * 4, groups = k / kGroup;
  for (int g = 0; g < groups; g += chunk) {
    const int end = std::min(g + chunk, groups);
    if constexpr (unpacks) w.fill(from, g, end);
    for (int r = 0; r < whole; r += 4) dot_groups<W, 4>(w, g, end, x + r, tile + r * stride, stride, &ahead);
    if (whole < rows) dot_groups<W, 4>(w, g, end, x + rows - 4, again, kPanel, &ahead);
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
  // Memory has nothing to do while the rows pass: they ask for the panel that follows.
  const int64_t bytes = int64_t(k) / Block<F>::inputs * Block<F>::bytes;
  const int64_t steps = int64_t(k / kGroup) * (rows / 4);
  const Ahead ahead{panel + bytes, panel + 2 * bytes, int((bytes / 64 + steps - 1) / steps)};
  const Packed<F, false> from{panel};
  if constexpr (Traits<F>::bits == 8) dot_many(from, from, k, x, rows, tile, stride, ahead);  // as it is read
  else dot_many(from, Unpacked<F>(scratch), k, x, rows, tile, stride, ahead);
}

struct LoadF32 {
  static constexpr int bytes = 4;
  static V::F load(const uint8_t* p) { return V::load(reinterpret_cast<const float*>(p)); }
};
struct LoadF16 {
  static constexpr int bytes = 2;
  static V::F load(const uint8_t* p) { return V::load_f16(p); }
};
struct LoadBF16 {
  static constexpr int bytes = 2;
  static V::F load(const uint8_t* p) { return V::load_bf16(p); }
};

template <class L, int M>
inline void dot_float(const uint8_t* panel, int k, const Row* x, float* tile, int64_t stride) {
  V::F acc[2][M][2];  // [parity of k][row][half]
  for (auto& parity : acc)
    for (int m = 0; m < M; m++) parity[m][0] = parity[m][1] = V::set1(0.0f);
  for (int i = 0; i < k; i += 2) {
    const uint8_t* p = panel + int64_t(i) * kPanel * L::bytes;
    prefetch_ahead(p, 2 * kPanel * L::bytes / 64);
    for (int parity = 0; parity < 2; parity++)
      for (int half = 0; half < 2; half++) {
        V::F w = L::load(p + (parity * kPanel + half * kLanes) * L::bytes);
        for (int m = 0; m < M; m++)
          acc[parity][m][half] = V::fma(w, V::set1(x[m].f32[i + parity]), acc[parity][m][half]);
      }
  }
  for (int m = 0; m < M; m++)
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
