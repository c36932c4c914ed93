// rows.h on sixteen lanes of AVX-512 with BF16. See kernels/avx2.cpp for the rule about targets.
#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "rows.h"

#pragma GCC diagnostic ignored "-Wunused-function"
// GCC 12 takes the undefined operands inside its own intrinsics for faults of ours.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

namespace {

using namespace qwell;
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
void store(uint16_t* p, F x, int64_t n = 16) { _mm256_mask_storeu_epi16(p, first(n), (__m256i)_mm512_cvtneps_pbh(x)); }
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

void rope(const uint16_t* x, const float* cos, const float* sin, int heads, int half, float sign, uint16_t* y) {
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

void silu_mul_back(const uint16_t* grad, const uint16_t* gate, const uint16_t* up, int64_t n, uint16_t* grad_gate,
                   uint16_t* grad_up) {
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

void round(const float* x, int n, uint16_t* y) {
  for (int i = 0; i < n; i += 16) store(y + i, load(x + i, n - i), n - i);
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

// --- AdamW ------------------------------------------------------------------------------------

constexpr int kBlock = 256, kParts = kBlock / 16;  // elements that share a scale of 8-bit moments

F wide8(const uint8_t* p, int64_t n) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(first(n), p)));
}
void store8(uint8_t* p, F code, int64_t n) {
  _mm_mask_storeu_epi8(p, first(n), _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(code)));
}

// Sixteen random numbers of 16 bits, by element: a hash of (seed, index), two rounds of a multiply
// and a shift (splitmix's mixing, 32 bits wide).
I noise(uint64_t seed, int64_t index) {
  const I lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  I x = _mm512_add_epi32(_mm512_set1_epi32(int32_t(index)), lane);
  x = _mm512_xor_si512(_mm512_mullo_epi32(x, _mm512_set1_epi32(int32_t(0x9e3779b1))), _mm512_set1_epi32(int32_t(seed)));
  x = _mm512_mullo_epi32(_mm512_xor_si512(x, _mm512_srli_epi32(x, 16)), _mm512_set1_epi32(0x7feb352d));
  x = _mm512_xor_si512(x, _mm512_set1_epi32(int32_t(seed >> 32) ^ int32_t(index >> 32)));
  x = _mm512_mullo_epi32(_mm512_xor_si512(x, _mm512_srli_epi32(x, 15)), _mm512_set1_epi32(int32_t(0x846ca68b)));
  return _mm512_srli_epi32(_mm512_xor_si512(x, _mm512_srli_epi32(x, 16)), 16);
}

F load_master(const uint16_t* weight, const int16_t* low, int64_t n) {
  const F upper = load(weight, n);
  if (!low) return upper;
  const I lower = _mm512_cvtepi16_epi32(_mm256_maskz_loadu_epi16(first(n), low));
  return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(upper), lower));
}

void store_master(uint16_t* weight, int16_t* low, F w, int64_t n, uint64_t seed, int64_t index) {
  const I bits = _mm512_castps_si512(w);
  const I add = low ? _mm512_set1_epi32(0x8000) : noise(seed, index);
  const I upper = _mm512_srai_epi32(_mm512_add_epi32(bits, add), 16);
  _mm256_mask_storeu_epi16(weight, first(n), _mm512_cvtepi32_epi16(upper));
  if (low)
    _mm256_mask_storeu_epi16(low, first(n),
                             _mm512_cvtepi32_epi16(_mm512_sub_epi32(bits, _mm512_slli_epi32(upper, 16))));
}

// One step of sixteen elements from moments m and v, which it moves.
F moved(const AdamW& s, F w, F g, F& m, F& v) {
  g = _mm512_mul_ps(g, set1(s.grad_scale));
  m = fma(g, set1(1 - s.beta1), _mm512_mul_ps(m, set1(s.beta1)));
  v = fma(_mm512_mul_ps(g, g), set1(1 - s.beta2), _mm512_mul_ps(v, set1(s.beta2)));
  const F root = _mm512_add_ps(_mm512_sqrt_ps(_mm512_div_ps(v, set1(s.correct2))), set1(s.eps));
  return fma(_mm512_div_ps(m, root), set1(-s.lr / s.correct1), _mm512_mul_ps(w, set1(s.decay)));
}

void adamw_wide(const AdamW& s, const AdamWState& t, uint16_t* weight, const uint16_t* grad, int64_t begin,
                int64_t end) {
  for (int64_t i = begin; i < end; i += 16) {
    const int64_t n = end - i;
    F m = load(t.m + i, n), v = load(t.v + i, n);
    int16_t* low = t.low ? t.low + i : nullptr;
    const F w = moved(s, load_master(weight + i, low, n), load(grad + i, n), m, v);
    store(t.m + i, m, n), store(t.v + i, v, n);
    store_master(weight + i, low, w, n, s.seed, i);
  }
}

void adamw_8(const AdamW& s, const AdamWState& t, uint16_t* weight, const uint16_t* grad, int64_t begin, int64_t end) {
  for (int64_t block = begin; block < end; block += kBlock) {
    F ms[kParts], vs[kParts], m_top = set1(0), v_top = set1(0);
    const F m_scale = set1(t.m_scale[block / kBlock]), v_scale = set1(t.v_scale[block / kBlock]);
    for (int p = 0; p < kParts && block + 16 * p < end; p++) {
      const int64_t i = block + 16 * p, n = end - i;
      const F root = _mm512_mul_ps(_mm512_sub_ps(wide8(t.m8 + i, n), set1(128)), set1(1 / 127.0f));
      const F fourth = _mm512_mul_ps(wide8(t.v8 + i, n), set1(1 / 255.0f)), second = _mm512_mul_ps(fourth, fourth);
      F m = _mm512_mul_ps(_mm512_mul_ps(root, _mm512_abs_ps(root)), m_scale);
      F v = _mm512_mul_ps(_mm512_mul_ps(second, second), v_scale);
      int16_t* low = t.low ? t.low + i : nullptr;
      const F w = moved(s, load_master(weight + i, low, n), load(grad + i, n), m, v);
      store_master(weight + i, low, w, n, s.seed, i);
      ms[p] = _mm512_maskz_mov_ps(first(n), m), vs[p] = _mm512_maskz_mov_ps(first(n), v);
      m_top = _mm512_max_ps(m_top, _mm512_abs_ps(ms[p])), v_top = _mm512_max_ps(v_top, vs[p]);
    }
    const float m_most = _mm512_reduce_max_ps(m_top), v_most = _mm512_reduce_max_ps(v_top);
    t.m_scale[block / kBlock] = m_most, t.v_scale[block / kBlock] = v_most;
    const F m_by = set1(std::max(m_most, 1.17549435e-38f)), v_by = set1(std::max(v_most, 1.17549435e-38f));
    for (int p = 0; p < kParts && block + 16 * p < end; p++) {
      const int64_t i = block + 16 * p, n = end - i;
      const F root = _mm512_sqrt_ps(_mm512_div_ps(_mm512_abs_ps(ms[p]), m_by));
      const F sign = _mm512_and_ps(ms[p], set1(-0.0f)), signed_root = _mm512_or_ps(root, sign);
      store8(t.m8 + i, fma(signed_root, set1(127), set1(128)), n);
      store8(t.v8 + i, _mm512_mul_ps(_mm512_sqrt_ps(_mm512_sqrt_ps(_mm512_div_ps(vs[p], v_by))), set1(255)), n);
    }
  }
}

void adamw(const AdamW& s, const AdamWState& t, uint16_t* weight, const uint16_t* grad, int64_t begin, int64_t end) {
  (t.m8 ? adamw_8 : adamw_wide)(s, t, weight, grad, begin, end);
}

}  // namespace
#pragma GCC pop_options

const qwell::TrainRows qwell::kTrainRowsAvx512 = {norm<uint16_t>, norm<float>, norm_back<uint16_t>, norm_back<float>,
                                                  rope,           silu_mul,    silu_mul_back,       cross_entropy,
                                                  dequantise,     softmax,     softmax_back,        round,
                                                  square_sum,     adamw};
#endif
