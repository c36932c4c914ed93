// bf16 over V's sixteen lanes as plain loops: rounding, pairs, bytes as floats. The truth the
// faster twin (bf16_avx512.h) is compared with; it knows no tiles.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

struct Bf16 {
  // Rounds to nearest even; below 2^-126 gives zero, NaN stays NaN.
  static uint16_t round(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    if (std::isnan(x)) return uint16_t(bits >> 16 | 64);
    if ((bits & 0x7f800000) == 0) return uint16_t(bits >> 16 & 0x8000);
    return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  }
  // p[i] = a[i] rounded
  static void store(uint16_t* p, V::F a) { scatter(p, a, 1); }
  // p[2i] = even[i] rounded, p[2i + 1] = odd[i] rounded
  static void store_pairs(uint16_t* p, V::F even, V::F odd) {
    scatter(p, even, 2);
    scatter(p + 1, odd, 2);
  }
  // p[i] = low[i] rounded, p[16 + i] = high[i] rounded
  static void store32(uint16_t* p, V::F low, V::F high) {
    store(p, low);
    store(p + 16, high);
  }
  static V::F ceil(V::F a) {
    return each(a, [](float x) { return std::ceil(x); });
  }
  // a - floor(a), rounded down; for infinity 0
  static V::F fraction(V::F a) {
    return each(a, [](float x) {
      if (std::isinf(x)) return 0.0f;
      const float f = x - std::floor(x);
      return std::floor(x) == -1 && f - 1 > x ? std::nextafter(f, 0.0f) : f;
    });
  }
  // a * 2^floor(n), rounded once
  static V::F scale2(V::F a, V::F n) {
    alignas(64) float x[16], y[16];
    V::store(x, a), V::store(y, n);
    for (int i = 0; i < 16; i++)
      x[i] = std::isnan(y[i]) ? y[i] : std::ldexp(x[i], int(std::floor(std::fmin(std::fmax(y[i], -999.0f), 999.0f))));
    return V::load(x);
  }
  // The largest lane of each of `count` rows up to 16; anything behind them
  template <typename Row>
  static V::F max_rows(Row row, int count) {
    alignas(64) float most[16] = {};
    for (int r = 0; r < count; r++) most[r] = V::hmax(row(r));
    return V::load(most);
  }
  // Lanes that differ; NaN differs from everything.
  static uint32_t differ(V::F a, V::F b) {
    alignas(64) float x[16], y[16];
    V::store(x, a), V::store(y, b);
    uint32_t bits = 0;
    for (int i = 0; i < 16; i++) bits |= uint32_t(!(x[i] == y[i])) << i;
    return bits;
  }
  // 0 in the lanes whose bit is 0
  static V::F keep(V::F a, uint16_t bits) {
    alignas(64) float x[16];
    V::store(x, a);
    for (int i = 0; i < 16; i++) x[i] = bits >> i & 1 ? x[i] : 0.0f;
    return V::load(x);
  }
  // Byte J of every four as float.
  template <int J>
  static V::F byte(V::B u) {
    alignas(64) uint8_t bytes[64];
    alignas(64) float f[16];
    V::storeb(bytes, u);
    for (int i = 0; i < 16; i++) f[i] = float(bytes[4 * i + J]);
    return V::load(f);
  }

 private:
  template <typename Fn>
  static V::F each(V::F a, Fn fn) {
    alignas(64) float x[16];
    V::store(x, a);
    for (int i = 0; i < 16; i++) x[i] = fn(x[i]);
    return V::load(x);
  }
  static void scatter(uint16_t* p, V::F a, int step) {
    alignas(64) float f[16];
    V::store(f, a);
    for (int i = 0; i < 16; i++) p[i * step] = round(f[i]);
  }
};

}  // namespace
