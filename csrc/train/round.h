// round16: sixteen float32 to bf16, to nearest even. Textual; QWELL_HAS_BF16 says whether the
// includer's target has the instruction, which makes zeros of what lies below the smallest normal.
#pragma once

#include <immintrin.h>

namespace {

__m256i round16(__m512 x) {
#if QWELL_HAS_BF16
  return (__m256i)_mm512_cvtneps_pbh(x);
#else
  const __m512i bits = _mm512_castps_si512(x), one = _mm512_set1_epi32(1);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), one);
  const __m512i up = _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7fff));
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  const __m512i kept = _mm512_mask_or_epi32(up, nan, bits, _mm512_set1_epi32(0x400000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16));
#endif
}

}  // namespace
