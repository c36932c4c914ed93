// Dots of gemm_walk.h on vector registers: eight rows of A against the 32 columns of a panel, a pair
// of k at a time. Textual. `Pair` of the includer:
//
//   typedef A, B; static A a(__m512i); static B b(__m512i)   what a broadcast or loaded pair becomes
//   static __m512 dot(__m512 sum, const A&, const B&)         sum + both products of the pair
#pragma once

#include "gemm_walk.h"

namespace {

template <class Pair>
struct Vectors {
  static constexpr int64_t kPackedA = 704 << 10;  // L2 may be 1 MB, and B passes through it
  static constexpr int kRows = 8;
  static void begin() {}
  static void end() {}

  static void dots(const uint8_t* a, const uint8_t* b, int steps, int rows, bool fresh, float* c, Beside& beside) {
    for (int r = 0; r < rows; r += kRows)
      eight(a + r / kTile * kTileBytes + r % kTile * 64, b, steps, fresh, c + r / kTile * 512 + r % kTile * 16);
    for (int s = 0; s < steps; s++) beside.a_little();
  }

 private:
  static void eight(const uint8_t* a, const uint8_t* b, int steps, bool fresh, float* c) {
    __m512 left[kRows], right[kRows];
    for (int r = 0; r < kRows; r++) {
      left[r] = fresh ? _mm512_setzero_ps() : _mm512_load_ps(c + 16 * r);
      right[r] = fresh ? _mm512_setzero_ps() : _mm512_load_ps(c + 256 + 16 * r);
    }
    for (int s = 0; s < steps; s++, a += kStepBytes, b += kStepBytes) {
      for (int r = 0; r < kRows; r++) ask(a + kStepBytes + 64 * r);
#pragma GCC unroll 4
      for (int p = 0; p < 16; p++) {
        const auto b0 = Pair::b(_mm512_load_si512(b + 64 * p)),
                   b1 = Pair::b(_mm512_load_si512(b + kTileBytes + 64 * p));
#pragma GCC unroll 8
        for (int r = 0; r < kRows; r++) {
          const auto one = Pair::a(_mm512_set1_epi32(*reinterpret_cast<const int32_t*>(a + 64 * r + 4 * p)));
          left[r] = Pair::dot(left[r], one, b0);
          right[r] = Pair::dot(right[r], one, b1);
        }
      }
    }
    for (int r = 0; r < kRows; r++) {
      _mm512_store_ps(c + 16 * r, left[r]);
      _mm512_store_ps(c + 256 + 16 * r, right[r]);
    }
  }
};

}  // namespace
