// AdamW of rows.h on sixteen lanes. Textual, after `round.h`.
#pragma once

#include <algorithm>
#include <cstdint>

#include "lanes.h"
#include "rows.h"

namespace {

using namespace qwell;

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
