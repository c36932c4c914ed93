// bf16 over sixteen lanes of AVX-512 with BF16; what each does is written in bf16.h.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace {

struct Bf16 {
  static void store(uint16_t* p, V::F a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh(a));
  }
  static void store_pairs(uint16_t* p, V::F even, V::F odd) {
    // The conversion leaves sixteen of `even`, then sixteen of `odd`.
    const __m512i zipped = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                            21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    _mm512_storeu_si512(p, _mm512_permutexvar_epi16(zipped, (__m512i)_mm512_cvtne2ps_pbh(odd, even)));
  }
  static void zip(uint16_t* p, const uint16_t* even, const uint16_t* odd) {
    _mm512_storeu_si512(p, _mm512_or_si512(widen(even), _mm512_slli_epi32(widen(odd), 16)));
  }
  template <int J>
  static V::F byte(V::B u) {
    const __m512i moved = _mm512_srli_epi32(u, 8 * J);
    return _mm512_cvtepi32_ps(J == 3 ? moved : _mm512_and_si512(moved, _mm512_set1_epi32(255)));
  }

 private:
  static __m512i widen(const uint16_t* p) {
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
};

}  // namespace
