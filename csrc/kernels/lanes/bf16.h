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
  // p[2i] = even[i], p[2i + 1] = odd[i], bf16 as they are
  static void zip(uint16_t* p, const uint16_t* even, const uint16_t* odd) {
    for (int i = 0; i < 16; i++) p[2 * i] = even[i], p[2 * i + 1] = odd[i];
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
  static void scatter(uint16_t* p, V::F a, int step) {
    alignas(64) float f[16];
    V::store(f, a);
    for (int i = 0; i < 16; i++) p[i * step] = round(f[i]);
  }
};

}  // namespace
