// Sixteen lanes as plain loops: the truth the other lanes are compared with.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

struct V {
  static constexpr int kHalves = 1;            // halves of a panel whose lines fit the registers together
  static constexpr int kHeads = 4, kWide = 1;  // attention: heads, key vectors at a time

  struct F {
    float v[16];
  };
  struct I {
    int32_t v[16];
  };
  struct B {
    uint8_t v[64];
  };

#define EACH(type, expr)                        \
  type r;                                       \
  for (int i = 0; i < 16; i++) r.v[i] = (expr); \
  return r
  static F set1(float x) { EACH(F, x); }
  static F load(const float* p) {
    F r;
    std::memcpy(r.v, p, 64);
    return r;
  }
  static void store(float* p, F a) { std::memcpy(p, a.v, 64); }
  static F add(F a, F b) { EACH(F, a.v[i] + b.v[i]); }
  static F sub(F a, F b) { EACH(F, a.v[i] - b.v[i]); }
  static F mul(F a, F b) { EACH(F, a.v[i] * b.v[i]); }
  static F div(F a, F b) { EACH(F, a.v[i] / b.v[i]); }
  static F fma(F a, F b, F c) { EACH(F, std::fma(a.v[i], b.v[i], c.v[i])); }
  static F max(F a, F b) { EACH(F, a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
  static F min(F a, F b) { EACH(F, a.v[i] < b.v[i] ? a.v[i] : b.v[i]); }
  static F abs(F a) { EACH(F, std::fabs(a.v[i])); }
  static F neg(F a) { EACH(F, -a.v[i]); }
  static F round(F a) { EACH(F, std::nearbyintf(a.v[i])); }
  // 0 where x < limit, else a
  static F zero_below(F x, float limit, F a) { EACH(F, x.v[i] < limit ? 0.0f : a.v[i]); }
  // a * 2^n, n integral in [-126, 127]
  static F scale2(F a, F n) {
    F r;
    for (int i = 0; i < 16; i++) {
      int32_t bits = (int32_t(n.v[i]) + 127) << 23;
      float power;
      std::memcpy(&power, &bits, 4);
      r.v[i] = a.v[i] * power;
    }
    return r;
  }
  static float sum(F a) {
    for (int half = 8; half; half /= 2)
      for (int i = 0; i < half; i++) a.v[i] += a.v[i + half];
    return a.v[0];
  }
  static float hmax(F a) {
    float m = a.v[0];
    for (int i = 1; i < 16; i++) m = a.v[i] > m ? a.v[i] : m;
    return m;
  }
  static float half(uint16_t h) {
    uint32_t sign = uint32_t(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 1023, bits;
    if (exponent == 0) {
      float f = std::ldexp(float(mantissa), -24);
      return sign ? -f : f;
    }
    bits = exponent == 31 ? sign | 0x7f800000u | mantissa << 13 : sign | (exponent + 112) << 23 | mantissa << 13;
    float f;
    std::memcpy(&f, &bits, 4);
    return f;
  }
  static F load_f16(const void* p) {
    uint16_t h[16];
    std::memcpy(h, p, 32);
    EACH(F, half(h[i]));
  }
  static F load_bf16(const void* p) {
    uint16_t h[16];
    std::memcpy(h, p, 32);
    F r;
    for (int i = 0; i < 16; i++) {
      uint32_t bits = uint32_t(h[i]) << 16;
      std::memcpy(&r.v[i], &bits, 4);
    }
    return r;
  }
  // Of sixteen pairs the first of each, and the second of each.
  static F even_bf16(const void* p) { return of_pairs(p, 16, 0xffffffff); }
  static F odd_bf16(const void* p) { return of_pairs(p, 0, 0xffff0000); }
  static F of_pairs(const void* p, int shift, uint32_t mask) {
    uint32_t pair[16];
    std::memcpy(pair, p, 64);
    for (int i = 0; i < 16; i++) pair[i] = pair[i] << shift & mask;
    F r;
    std::memcpy(r.v, pair, 64);
    return r;
  }
  // p[2i] = even[i], p[2i + 1] = odd[i], rounded to nearest even; a NaN must have its low 16 bits clear
  static uint16_t round_bf16(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  }
  static void store_bf16_pairs(uint16_t* p, F even, F odd) {
    for (int i = 0; i < 16; i++) p[2 * i] = round_bf16(even.v[i]), p[2 * i + 1] = round_bf16(odd.v[i]);
  }
  static F load_i8(const void* p) {
    const int8_t* b = static_cast<const int8_t*>(p);
    EACH(F, float(b[i]));
  }

  static I set1i(int32_t x) { EACH(I, x); }
  static I addi(I a, I b) { EACH(I, a.v[i] + b.v[i]); }
  static I shl7(I a) { EACH(I, a.v[i] * 128); }
  static F to_float(I a) { EACH(F, float(a.v[i])); }
  static I to_int(F a) { EACH(I, int32_t(std::nearbyintf(a.v[i]))); }
  static int32_t sumi(I a) {
    int32_t s = 0;
    for (int i = 0; i < 16; i++) s += a.v[i];
    return s;
  }
  static I subi(I a, I b) { EACH(I, a.v[i] - b.v[i]); }
  static void store_i8(int8_t* p, I a) {
    for (int i = 0; i < 16; i++) p[i] = int8_t(a.v[i]);
  }
  // a where the bit of its lane is set, else -infinity
  static F allow(F a, uint16_t bits) { EACH(F, bits >> i & 1 ? a.v[i] : -INFINITY); }
  static I loadi(const int32_t* p) {
    I r;
    std::memcpy(r.v, p, 64);
    return r;
  }
  static void storei(int32_t* p, I a) { std::memcpy(p, a.v, 64); }
  static I keep_from(I a, I least) { EACH(I, a.v[i] >= least.v[i] ? a.v[i] : 0); }
  // Sums of unsigned 32-bit lanes that do not wrap.
  using W = uint64_t;
  static W zerow() { return 0; }
  static W addw(W sum, I a) {
    for (int i = 0; i < 16; i++) sum += uint32_t(a.v[i]);
    return sum;
  }
  static uint64_t sumw(W sum) { return sum; }
#undef EACH

#define EACH(expr)                                     \
  B r;                                                 \
  for (int i = 0; i < 64; i++) r.v[i] = uint8_t(expr); \
  return r
  static B loadb(const uint8_t* p) {
    B r;
    std::memcpy(r.v, p, 64);
    return r;
  }
  static void storeb(uint8_t* p, B a) { std::memcpy(p, a.v, 64); }
  static B zerob() { EACH(0); }
  static B subb(B a, int b) { EACH(a.v[i] - b); }  // signed bytes, should it go below 0
  static B low_nibble(B a) { EACH(a.v[i] & 15); }
  static B high_nibble(B a) { EACH(a.v[i] >> 4); }
  template <int R>
  static B or_bit5(B a, B plane) {
    EACH(a.v[i] | (plane.v[i] >> R & 1) << 4);
  }
  template <int R>
  static B or_bits56(B a, B plane) {
    EACH(a.v[i] | (plane.v[i] >> 2 * R & 3) << 4);
  }
#undef EACH
  // What a sum of (u - zero) * a starts from, `total` being the sum of a.
  template <int bits>
  static I start(int zero, int32_t total) {
    return set1i(-zero * total);
  }
  // acc[c] += sum over i and j of u[i][4c + j] * a[4i + j], j < 4, i < lines; u < 2^bits
  template <int bits, int lines>
  static I dot_lines(I acc, const B* u, const int8_t* a) {
    for (int i = 0; i < lines; i++)
      for (int c = 0; c < 16; c++)
        for (int j = 0; j < 4; j++) acc.v[c] += int32_t(u[i].v[4 * c + j]) * a[4 * i + j];
    return acc;
  }
  // dot[m] += lines . a[m]: M rows against one half.
  template <int bits, int n, int M>
  static void dot_rows(I (*dot)[1], const B* const* lines, const int8_t* const* a) {
    for (int m = 0; m < M; m++) dot[m][0] = dot_lines<bits, n>(dot[m][0], lines[0], a[m]);
  }
  static void prefetch(const void*) {}
};

}  // namespace
