// The tiled linear family over T's tiles and V's lanes: formula in kernels.h, written once.
//
// Blocking: 256 inputs of a panel are unpacked to bf16 pairs, 16 KB that stay in the first-level
// cache, and meet all rows before the next 256; sums wait in the panel's tile in between. A streams
// from the second-level cache, one line asked for per block ahead of its use. T is amx.h or
// tiles_emulated.h; nothing here knows which.
#pragma once

#include "linear.h"
#include "rows.h"

namespace {

using namespace qwell;

// A B operand: for every 32 of k two tiles of 16 columns, [k / 2][16 columns][2].
inline constexpr int kStepBytes = 2 * kTileBytes;  // of A and of B

void pack_tiles(const float* x, int k, int row, int64_t block_bytes, uint8_t* a) {
  a += row / kTileRows * block_bytes + row % kTileRows / 16 * kTileBytes + row % 16 * 64;
  for (int i = 0; i < k; i += 32, a += kStepBytes)
    for (int half = 0; half < 2; half++) {
      const int left = k - i - half * kLanes;
      Bf16::store(reinterpret_cast<uint16_t*>(a) + half * kLanes,
                  left > 0 ? load_part(x + i + half * kLanes, left) : V::set1(0.0f));
    }
}

// How the inputs [from, from + 32 * steps) of a panel become a B operand.
template <Format F>
struct Unpack {
  using P = Packed<F>;
  static void run(const uint8_t* panel, int, int from, int steps, uint8_t* b) {
    P packed{panel};
    for (int g = from / kGroup; steps > 0; g++, steps--)
      for (int half = 0; half < 2; half++, b += kTileBytes) {
        const Rows8 rows = packed.rows(g, half);
        for (int sub = 0; sub < kGroup / P::group; sub++) group(packed, rows, g, sub, half, b);
      }
  }
  static void group(const P& packed, const Rows8& rows, int g, int sub, int half, uint8_t* b) {
    constexpr int lines = P::group / 4;
    const V::F scale = packed.scale(g, sub, half);
    V::F offset;
    if constexpr (P::mins) offset = V::neg(packed.min(g, sub, half));
    else offset = V::mul(scale, V::set1(-float(P::zero)));
    uint16_t* to = reinterpret_cast<uint16_t*>(b) + sub * lines * 64;
    for (int i = sub * lines; i < (sub + 1) * lines; i++, to += 64) {
      const V::B u = rows.row[i];
      Bf16::store_pairs(to, V::fma(Bf16::byte<0>(u), scale, offset), V::fma(Bf16::byte<1>(u), scale, offset));
      Bf16::store_pairs(to + 32, V::fma(Bf16::byte<2>(u), scale, offset), V::fma(Bf16::byte<3>(u), scale, offset));
    }
  }
};

template <>
struct Unpack<Format::BF16> {
  static void run(const uint8_t* panel, int k, int from, int steps, uint8_t* b) {
    const uint16_t* w = reinterpret_cast<const uint16_t*>(panel);
    for (int i = from; i < from + 32 * steps; i += 32, b += kStepBytes)
      for (int pair = 0; pair < 16; pair++)
        for (int half = 0; half < 2; half++) {
          uint16_t* to = reinterpret_cast<uint16_t*>(b + half * kTileBytes) + 32 * pair;
          const uint16_t* row = w + int64_t(i + 2 * pair) * kPanel + half * kLanes;
          if (i + 2 * pair >= k) {
            std::memset(to, 0, 64);
            continue;
          }
          prefetch_ahead(reinterpret_cast<const uint8_t*>(row), 1);
          Bf16::zip(to, row, row + kPanel);
        }
  }
};

// c[16 M][32] (+)= A B over `steps` of 32 inputs. Tiles 0..3 are c, 4 and 5 rows, 6 and 7 columns.
// `next` is the A that follows.
template <int M>
inline void dot_tiles(const uint8_t* a, const uint8_t* b, int steps, bool first, float* c, int64_t stride,
                      const uint8_t* next) {
  float* low = c + 16 * stride;
  const int64_t bytes = stride * int64_t(sizeof(float));
  if (first) {
    T::template zero<0>(), T::template zero<1>();
    if constexpr (M == 2) T::template zero<2>(), T::template zero<3>();
  } else {
    T::template load<0>(c, bytes), T::template load<1>(c + kLanes, bytes);
    if constexpr (M == 2) T::template load<2>(low, bytes), T::template load<3>(low + kLanes, bytes);
  }
  for (int s = 0; s < steps; s++, a += kStepBytes, b += kStepBytes, next += kStepBytes) {
    T::template load<6>(b, 64), T::template load<4>(a, 64);
    T::template dot<0, 4, 6>();
    for (int i = 0; i < 16; i++) T::prefetch(next + 64 * i);
    T::template load<7>(b + kTileBytes, 64);
    T::template dot<1, 4, 7>();
    if constexpr (M == 2) {
      T::template load<5>(a + kTileBytes, 64);
      T::template dot<2, 5, 6>();
      for (int i = 16; i < 32; i++) T::prefetch(next + 64 * i);
      T::template dot<3, 5, 7>();
    }
  }
  T::template store<0>(c, bytes), T::template store<1>(c + kLanes, bytes);
  if constexpr (M == 2) T::template store<2>(low, bytes), T::template store<3>(low + kLanes, bytes);
}

template <Format F>
void linear_tiles(const uint8_t* panel, int k, const uint8_t* a, int64_t block_bytes, int rows, float* tile,
                  int64_t stride, uint8_t* scratch) {
  for (int from = 0; from < k; from += kTileDepth) {
    const int steps = (std::min(kTileDepth, k - from) + 31) / 32;
    Unpack<F>::run(panel, k, from, steps, scratch);
    const uint8_t* at = a + int64_t(from / 32) * kStepBytes;
    for (int r = 0; r < rows; r += kTileRows) {
      const uint8_t* block = at + r / kTileRows * block_bytes;
      const uint8_t* next = r + kTileRows < rows ? block + block_bytes : at + kTileDepth / 32 * kStepBytes;
      float* c = tile + r * stride;
      if (rows - r <= 16) dot_tiles<1>(block, scratch, steps, from == 0, c, stride, next);
      else dot_tiles<2>(block, scratch, steps, from == 0, c, stride, next);
    }
  }
}

}  // namespace
