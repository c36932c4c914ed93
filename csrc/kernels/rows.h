// The rows family over V's sixteen lanes: norm, quantise, rope, silu_mul, add. Formulas: kernels.h.
#pragma once

#include <cmath>
#include <cstring>

#include "../kernels.h"

namespace {

using namespace qwell;

inline V::F exp16(V::F x) {
  x = V::min(x, V::set1(88.0f));
  V::F n = V::round(V::mul(x, V::set1(1.44269504f)));
  n = V::max(n, V::set1(-126.0f));
  V::F r = V::fma(n, V::set1(-0.693145752f), x);
  r = V::fma(n, V::set1(-1.42860677e-6f), r);
  V::F y = V::set1(1.0f / 720);
  y = V::fma(y, r, V::set1(1.0f / 120));
  y = V::fma(y, r, V::set1(1.0f / 24));
  y = V::fma(y, r, V::set1(1.0f / 6));
  y = V::fma(y, r, V::set1(0.5f));
  y = V::fma(y, r, V::set1(1.0f));
  y = V::fma(y, r, V::set1(1.0f));
  return V::zero_below(x, -87.0f, V::scale2(y, n));
}

// The first n of 16 floats, zero behind them.
inline V::F load_part(const float* p, int n) {
  if (n >= kLanes) return V::load(p);
  alignas(64) float buffer[kLanes] = {};
  std::memcpy(buffer, p, n * sizeof(float));
  return V::load(buffer);
}
inline void store_part(float* p, V::F x, int n) {
  if (n >= kLanes) return V::store(p, x);
  alignas(64) float buffer[kLanes];
  V::store(buffer, x);
  std::memcpy(p, buffer, n * sizeof(float));
}

// The largest |x| of a group, or NaN where one is not finite: x * 0 is 0 for every finite x.
inline float group_max(const float* x) {
  const V::F a = V::load(x), b = V::load(x + kLanes), zero = V::set1(0.0f);
  if (V::sum(V::add(V::mul(a, zero), V::mul(b, zero))) != 0.0f) return NAN;
  return V::hmax(V::max(V::abs(a), V::abs(b)));
}

// Group g; `loud` is its place among the loud ones, or -1.
inline void quantize_group(const float* x, int g, float amax, int loud, const Row& to) {
  // An all-zero group (padding, a dead neuron) has scale 0 and q 0; so has one too small to divide.
  // What is not finite must reach the logits, not look like a number.
  const bool is_zero = !(amax > 1e-30f);
  const float inverse = is_zero ? 0.0f : (loud >= 0 ? 16256.0f : 127.0f) / amax;
  to.scale[g] = is_zero ? (amax >= 0.0f ? 0.0f : NAN) : amax / 127.0f;
  for (int i = 0; i < 2; i++) {
    const int at = g * kGroup + i * kLanes;
    const V::F v = V::load(x + at), fine = V::round(V::mul(is_zero ? V::set1(0.0f) : v, V::set1(inverse)));
    V::I q = V::to_int(loud >= 0 ? V::round(V::mul(fine, V::set1(1.0f / 128))) : fine);
    V::store_i8(to.q + at, q);
    to.sum[2 * g + i] = V::sumi(q);
    if (loud < 0) continue;
    q = V::subi(V::to_int(fine), V::shl7(q));
    V::store_i8(to.rest + loud * kGroup + i * kLanes, q);
    to.rest_sum[2 * loud + i] = V::sumi(q);
    to.rest_scale[loud] = to.scale[g] * (1.0f / 128);
  }
  to.scaled_sum[g] = float(to.sum[2 * g] + to.sum[2 * g + 1]) * to.scale[g];
}

void quantize(const float* x, int k, const Row& to) {
  const int groups = k / kGroup;
  float energy = 0.0f;
  for (int g = 0; g < groups; g++) {
    const float amax = to.scale[g] = group_max(x + g * kGroup);
    if (amax >= 0.0f) energy = std::fma(amax, amax, energy);
  }
  to.loud[0] = 0;
  for (int g = 0; g < groups; g++) {
    const float amax = to.scale[g];
    const bool is_loud = amax * amax * float(groups) > kLoud * energy;
    if (is_loud) to.loud[++to.loud[0]] = g;
    quantize_group(x, g, amax, is_loud ? to.loud[0] - 1 : -1, to);
  }
}

void rms_norm(const float* x, const float* weight, int n, int padded, float eps, float* y) {
  V::F squares = V::set1(0.0f);
  for (int i = 0; i < n; i += kLanes) {
    V::F v = load_part(x + i, n - i);
    squares = V::fma(v, v, squares);
  }
  V::F r = V::set1(1.0f / std::sqrt(V::sum(squares) / float(n) + eps));
  for (int i = 0; i < n; i += kLanes) {
    V::F v = V::mul(V::mul(load_part(x + i, n - i), r), load_part(weight + i, n - i));
    store_part(y + i, v, n - i);
  }
  for (int i = n; i < padded; i++) y[i] = 0.0f;
}

void rope(float* head, int head_dim, const float* cos, const float* sin) {
  const int h = head_dim / 2;
  for (int i = 0; i < h; i += kLanes) {
    V::F a = load_part(head + i, h - i), b = load_part(head + h + i, h - i);
    V::F c = load_part(cos + i, h - i), s = load_part(sin + i, h - i);
    store_part(head + i, V::fma(a, c, V::neg(V::mul(b, s))), h - i);
    store_part(head + h + i, V::fma(b, c, V::mul(a, s)), h - i);
  }
}

inline V::F silu16(V::F gate, V::F up) { return V::mul(V::div(gate, V::add(V::set1(1.0f), exp16(V::neg(gate)))), up); }

void silu_mul(const float* gate, const float* up, int n, float* y) {
  for (int i = 0; i < n; i += kLanes)
    store_part(y + i, silu16(load_part(gate + i, n - i), load_part(up + i, n - i)), n - i);
}

void add(const float* a, const float* b, int n, float* y) {
  for (int i = 0; i < n; i += kLanes)
    store_part(y + i, V::add(load_part(a + i, n - i), load_part(b + i, n - i)), n - i);
}

}  // namespace
