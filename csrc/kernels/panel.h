// How the linear kernels read a panel: block by block as it is packed, or a chunk of it unpacked.
#pragma once

#include "../kernels.h"

namespace {

using namespace qwell;

// A panel is a stream: lines are asked for so far ahead that memory, not its latency, is the limit.
// Into the second-level cache. Distances were not measured again on Intel (LOG.md, 2026-11-26).
template <int... ahead>
inline void prefetch_ahead(const uint8_t* p, int lines) {
  for (int i = 0; i < lines; i++) (V::prefetch(p + ahead + 64 * i), ...);
}
// Where codes are unpacked between two lines, twice: what finds the queue of misses full is dropped,
// and its second turn comes before it is needed. Where nearly all is loads it only costs.
inline void prefetch_codes(const uint8_t* p, int lines) { prefetch_ahead<6144, 4096>(p, lines); }
inline void prefetch_floats(const uint8_t* p, int lines) { prefetch_ahead<4608>(p, lines); }

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

// How a panel is read: packed blocks of format F, or a chunk unpacked from them. With kStream it asks
// for what it reads next.
template <Format F, bool kStream = true>
struct Packed {
  using T = Traits<F>;
  using L = Block<F>;
  static constexpr int bits = T::bits, zero = T::zero, group = T::group;
  static constexpr bool mins = T::mins;
  // Bytes and lines of one half of 32 inputs, its share of the block's scales included.
  static constexpr int kShare = L::bytes / (L::inputs / kGroup) / 2, kLines = (kShare + 63) / 64;
  static constexpr int chunk = 2 * kChunkGroups;  // what half of them are, unpacked
  const uint8_t* panel;

  Packed<F, false> still() const { return {panel}; }
  void fill(const Packed<F, false>&, int, int) const {}  // it is read as it is
  const uint8_t* block(int g) const { return panel + int64_t(g / (L::inputs / kGroup)) * L::bytes; }

  QWELL_INLINE Rows8 rows(int g, int half) const {
    const uint8_t* p = block(g) + L::codes + (g % (L::inputs / kGroup)) * L::group_bytes;
    if constexpr (kStream) prefetch_codes(block(g) + (g % (L::inputs / kGroup) * 2 + half) * kShare, kLines);
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

// One chunk of a panel, unpacked: [g][half][8 rows][64] bytes, then floats [g][sub][half][16] of
// scales and, at the same place in a second array, minima.
template <Format F>
struct Unpacked {
  using T = Traits<F>;
  static constexpr int bits = T::bits, zero = T::zero, group = T::group;
  static constexpr bool mins = T::mins;
  static constexpr int chunk = kChunkGroups;
  uint8_t* bytes;
  float *scales, *minima;
  int first = 0;  // group of the panel

  explicit Unpacked(uint8_t* scratch)
      : bytes(scratch),
        scales(reinterpret_cast<float*>(scratch + kChunkGroups * kGroup * kPanel)),
        minima(scales + kChunkGroups * (kGroup / kLanes) * kPanel) {}

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

}  // namespace
