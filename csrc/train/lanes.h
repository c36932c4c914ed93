// Sixteen lanes of float32 for rows_body.h and adamw_body.h. Textual, after `round.h`.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace {

using F = __m512;
using I = __m512i;

F set1(float x) { return _mm512_set1_ps(x); }
F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
__mmask16 first(int64_t n) { return n >= 16 ? 0xffff : (1u << n) - 1; }

// n of sixteen elements; the others are zero and not touched.
F load(const uint16_t* p, int64_t n = 16) {
  const __m256i half = _mm256_maskz_loadu_epi16(first(n), p);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
F load(const float* p, int64_t n = 16) { return _mm512_maskz_loadu_ps(first(n), p); }
void store(uint16_t* p, F x, int64_t n = 16) { _mm256_mask_storeu_epi16(p, first(n), round16(x)); }
void store(float* p, F x, int64_t n = 16) { _mm512_mask_storeu_ps(p, first(n), x); }

// e^x to about 2e-7: 2^n times a polynomial of the rest.
F exp(F x) {
  x = _mm512_min_ps(_mm512_max_ps(x, set1(-87.3f)), set1(88.3f));
  const F n = _mm512_roundscale_ps(_mm512_mul_ps(x, set1(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const F r = fma(n, set1(1.90821493e-10f), fma(n, set1(-0.693147182f), x));
  F p = set1(1.98412698e-4f);
  for (float c : {1.38888889e-3f, 8.33333333e-3f, 4.16666667e-2f, 1.66666667e-1f, 0.5f, 1.0f, 1.0f})
    p = fma(p, r, set1(c));
  return _mm512_scalef_ps(p, n);
}
F sigmoid(F x) { return _mm512_div_ps(set1(1), _mm512_add_ps(set1(1), exp(_mm512_sub_ps(set1(0), x)))); }

}  // namespace
