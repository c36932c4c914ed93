// rows.h on sixteen lanes, but AdamW. Textual, after `round.h`.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "lanes.h"
#include "rows.h"

namespace {

using namespace qwell;

template <class X>
void norm(const X* x, const uint16_t* weight, int n, float eps, uint16_t* y, float* rstd) {
  F sum = set1(0);
  for (int i = 0; i < n; i += 16) {
    const F v = load(x + i, n - i);
    sum = fma(v, v, sum);
  }
  const float scale = 1 / std::sqrt(_mm512_reduce_add_ps(sum) / float(n) + eps);
  *rstd = scale;
  for (int i = 0; i < n; i += 16)
    store(y + i, _mm512_mul_ps(_mm512_mul_ps(load(x + i, n - i), set1(scale)), load(weight + i, n - i)), n - i);
}

template <class X>
void norm_back(const uint16_t* grad, const X* x, const uint16_t* weight, int n, float rstd, X* grad_x,
               float* grad_weight) {
  F inner = set1(0);
  for (int i = 0; i < n; i += 16)
    inner = fma(_mm512_mul_ps(load(grad + i, n - i), load(weight + i, n - i)), load(x + i, n - i), inner);
  const F mean = set1(_mm512_reduce_add_ps(inner) * rstd / float(n)), scale = set1(rstd);
  for (int i = 0; i < n; i += 16) {
    const F g = load(grad + i, n - i), normed = _mm512_mul_ps(load(x + i, n - i), scale);
    const F scaled = _mm512_mul_ps(g, load(weight + i, n - i));
    store(grad_x + i, _mm512_mul_ps(_mm512_fnmadd_ps(normed, mean, scaled), scale), n - i);
    if (grad_weight) store(grad_weight + i, fma(g, normed, load(grad_weight + i, n - i)), n - i);
  }
}

void rope(const float* x, const float* cos, const float* sin, int heads, int half, float sign, float* y) {
  for (int h = 0; h < heads; h++, x += 2 * half, y += 2 * half)
    for (int i = 0; i < half; i += 16) {
      const int64_t n = half - i;
      const F a = load(x + i, n), b = load(x + half + i, n), c = load(cos + i, n);
      const F s = _mm512_mul_ps(load(sin + i, n), set1(sign));
      store(y + i, _mm512_fnmadd_ps(b, s, _mm512_mul_ps(a, c)), n);
      store(y + half + i, fma(a, s, _mm512_mul_ps(b, c)), n);
    }
}

void silu_mul(const uint16_t* gate, const uint16_t* up, int64_t n, uint16_t* y) {
  for (int64_t i = 0; i < n; i += 16) {
    const F g = load(gate + i, n - i);
    store(y + i, _mm512_mul_ps(_mm512_mul_ps(g, sigmoid(g)), load(up + i, n - i)), n - i);
  }
}

void silu_mul_wide(const float* gate, const float* up, int64_t n, uint16_t* y, uint16_t* gate16, uint16_t* up16) {
  for (int64_t i = 0; i < n; i += 16) {
    const F g = load(gate + i, n - i), u = load(up + i, n - i);
    store(y + i, _mm512_mul_ps(_mm512_mul_ps(g, sigmoid(g)), u), n - i);
    store(gate16 + i, g, n - i), store(up16 + i, u, n - i);
  }
}

template <class Y>
void silu_mul_back(const uint16_t* grad, const uint16_t* gate, const uint16_t* up, int64_t n, Y* grad_gate,
                   Y* grad_up) {
  for (int64_t i = 0; i < n; i += 16) {
    const F d = load(grad + i, n - i), g = load(gate + i, n - i), s = sigmoid(g);
    const F silu = _mm512_mul_ps(g, s), slope = _mm512_mul_ps(s, _mm512_sub_ps(_mm512_add_ps(set1(1), g), silu));
    store(grad_gate + i, _mm512_mul_ps(_mm512_mul_ps(d, load(up + i, n - i)), slope), n - i);
    store(grad_up + i, _mm512_mul_ps(d, silu), n - i);
  }
}

float cross_entropy(const float* logits, int n, int target, float scale, uint16_t* grad) {
  F top = set1(-INFINITY);
  for (int i = 0; i < n; i += 16) top = _mm512_mask_max_ps(top, first(n - i), top, load(logits + i, n - i));
  const float most = _mm512_reduce_max_ps(top);
  F sum = set1(0);
  for (int i = 0; i < n; i += 16)
    sum = _mm512_mask_add_ps(sum, first(n - i), sum, exp(_mm512_sub_ps(load(logits + i, n - i), set1(most))));
  const float lse = most + std::log(_mm512_reduce_add_ps(sum));
  const float nll = lse - logits[target];
  if (scale == 0) return nll;
  for (int i = 0; i < n; i += 16)
    store(grad + i, _mm512_mul_ps(exp(_mm512_sub_ps(load(logits + i, n - i), set1(lse))), set1(scale)), n - i);
  store(grad + target, set1((std::exp(-nll) - 1) * scale), 1);
  return nll;
}

float softmax(const float* scores, int visible, int n, float scale, uint16_t* p) {
  F top = set1(-INFINITY);
  for (int i = 0; i < visible; i += 16)
    top = _mm512_mask_max_ps(top, first(visible - i), top, load(scores + i, visible - i));
  const float most = _mm512_reduce_max_ps(top) * scale;
  F sum = set1(0);
  for (int i = 0; i < visible; i += 16)
    sum = _mm512_mask_add_ps(sum, first(visible - i), sum,
                             exp(_mm512_fmsub_ps(load(scores + i, visible - i), set1(scale), set1(most))));
  const float lse = most + std::log(_mm512_reduce_add_ps(sum));
  for (int i = 0; i < n; i += 16) {
    const __mmask16 seen = visible > i ? first(visible - i) : 0;
    const F e = exp(_mm512_fmsub_ps(_mm512_maskz_loadu_ps(seen, scores + i), set1(scale), set1(lse)));
    store(p + i, _mm512_maskz_mov_ps(seen, e), n - i);
  }
  return lse;
}

void softmax_back(const float* scores, const float* slopes, const uint16_t* grad, const uint16_t* out, int head_dim,
                  int visible, int n, float scale, float lse, uint16_t* p, uint16_t* ds) {
  F dot = set1(0);
  for (int i = 0; i < head_dim; i += 16) dot = fma(load(grad + i, head_dim - i), load(out + i, head_dim - i), dot);
  const F delta = set1(_mm512_reduce_add_ps(dot));
  for (int i = 0; i < n; i += 16) {
    const __mmask16 seen = visible > i ? first(visible - i) : 0;
    const F e = exp(_mm512_fmsub_ps(_mm512_maskz_loadu_ps(seen, scores + i), set1(scale), set1(lse)));
    const F slope = _mm512_sub_ps(_mm512_maskz_loadu_ps(seen, slopes + i), delta);
    store(p + i, _mm512_maskz_mov_ps(seen, e), n - i);
    store(ds + i, _mm512_maskz_mov_ps(seen, _mm512_mul_ps(_mm512_mul_ps(e, slope), set1(scale))), n - i);
  }
}

void round(const float* x, int64_t n, uint16_t* y) {
  for (int64_t i = 0; i < n; i += 16) store(y + i, load(x + i, n - i), n - i);
}

void dequantise(const uint8_t* codes, const float* scale, const float* minimum, int bits, int zero, int group, int n,
                uint16_t* out) {
  const I off = _mm512_set1_epi32(zero);
  for (int i = 0; i < n; i += 16) {
    const uint8_t* p = bits == 8 ? codes + i : codes + i / 32 * 16;
    __m128i code = _mm_maskz_loadu_epi8(first(bits == 8 ? n - i : 16), p);
    if (bits == 4) code = _mm_and_si128(i % 32 ? _mm_srli_epi16(code, 4) : code, _mm_set1_epi8(15));
    F w = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_cvtepu8_epi32(code), off)), set1(scale[i / group]));
    if (minimum) w = _mm512_sub_ps(w, set1(minimum[i / group]));
    store(out + i, w, n - i);
  }
}

double square_sum(const uint16_t* x, int64_t n) {
  __m512d total = _mm512_setzero_pd();
  for (int64_t lo = 0; lo < n; lo += 4096) {
    F sum = set1(0);
    for (int64_t i = lo, end = std::min(n, lo + 4096); i < end; i += 16) {
      const F v = load(x + i, n - i);
      sum = fma(v, v, sum);
    }
    total = _mm512_add_pd(total, _mm512_add_pd(_mm512_cvtps_pd(_mm512_castps512_ps256(sum)),
                                               _mm512_cvtps_pd(_mm512_extractf32x8_ps(sum, 1))));
  }
  return _mm512_reduce_add_pd(total);
}

}  // namespace

#define QWELL_TRAIN_ROWS    \
  {norm<uint16_t>,          \
   norm<float>,             \
   norm_back<uint16_t>,     \
   norm_back<float>,        \
   rope,                    \
   silu_mul,                \
   silu_mul_wide,           \
   silu_mul_back<uint16_t>, \
   silu_mul_back<float>,    \
   cross_entropy,           \
   dequantise,              \
   softmax,                 \
   softmax_back,            \
   round,                   \
   square_sum,              \
   adamw}
