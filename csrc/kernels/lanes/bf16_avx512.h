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
  static void store32(uint16_t* p, V::F low, V::F high) {
    _mm512_storeu_si512(p, (__m512i)_mm512_cvtne2ps_pbh(high, low));
  }
  static V::F ceil(V::F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC); }
  static V::F fraction(V::F a) { return _mm512_reduce_ps(a, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
  template <typename Row>
  static V::F max_rows(Row row, int count) {
    alignas(64) float most[16] = {};
    for (int r = 0; r < count; r++) most[r] = V::hmax(row(r));
    return V::load(most);
  }
  static V::F scale2(V::F a, V::F n) { return _mm512_scalef_ps(a, n); }
  static uint32_t differ(V::F a, V::F b) { return _mm512_cmp_ps_mask(a, b, _CMP_NEQ_UQ); }
  static V::F keep(V::F a, uint16_t bits) { return _mm512_maskz_mov_ps(bits, a); }
  template <int J>
  static V::F byte(V::B u) {
    const __m512i moved = _mm512_srli_epi32(u, 8 * J);
    return _mm512_cvtepi32_ps(J == 3 ? moved : _mm512_and_si512(moved, _mm512_set1_epi32(255)));
  }
};

}  // namespace
