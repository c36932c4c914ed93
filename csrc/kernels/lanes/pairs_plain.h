// Pairs of bf16 over sixteen lanes in plain loops: the truth of pairs_avx512.h.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

struct Pairs {
  // sum[i] + x[1] * w[2 i + 1] + x[0] * w[2 i], one rounding each in this order.
  static V::F dot(V::F sum, V::B w, const uint16_t* x) {
    alignas(64) uint8_t lines[64];
    alignas(64) float even[16], odd[16], total[16];
    V::storeb(lines, w), V::store(even, V::even_bf16(lines)), V::store(odd, V::odd_bf16(lines)), V::store(total, sum);
    for (int i = 0; i < 16; i++) {
      total[i] = add(flush(odd[i]), flush(wide(x[1])), flush(total[i]));
      total[i] = add(flush(even[i]), flush(wide(x[0])), total[i]);
    }
    return V::load(total);
  }

 private:
  // a * b + c, rounded once. Below 2^-126 it is zero with its sign, as if the exponent had no end: what would
  // round to 2^-126 only where numbers are that small is zero as well. Sums near there are exact in double.
  static float add(float a, float b, float c) {
    const double exact = std::fma(double(a), double(b), double(c));
    return std::fabs(exact) < 0x1p-126 - 0x1p-151 ? std::copysign(0.0f, float(exact)) : std::fma(a, b, c);
  }
  static float flush(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }
  static float wide(uint16_t x) {
    const uint32_t bits = uint32_t(x) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
  }
};

}  // namespace
