// Sixteen lanes in four 128-bit registers: the NEON every AArch64 CPU has. With QWELL_DOTPROD defined
// dot_lines uses the dot product instructions (FEAT_DotProd); nothing else differs.
#pragma once

#include <arm_neon.h>

#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

struct V {
  static constexpr int kHalves = 1;
  static constexpr int kHeads = 4, kWide = 1;  // attention: heads, key vectors at a time
  struct F {
    float32x4_t v[4];
  };
  struct I {
    int32x4_t v[4];
  };
  struct B {
    uint8x16_t v[4];
  };

#define EACH(type, expr)                                             \
  type r;                                                            \
  _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) r.v[i] = expr; \
  return r
  static F set1(float x) { EACH(F, vdupq_n_f32(x)); }
  static F load(const float* p) { EACH(F, vld1q_f32(p + 4 * i)); }
  static void store(float* p, F a) {
    for (int i = 0; i < 4; i++) vst1q_f32(p + 4 * i, a.v[i]);
  }
  static F add(F a, F b) { EACH(F, vaddq_f32(a.v[i], b.v[i])); }
  static F sub(F a, F b) { EACH(F, vsubq_f32(a.v[i], b.v[i])); }
  static F mul(F a, F b) { EACH(F, vmulq_f32(a.v[i], b.v[i])); }
  static F div(F a, F b) { EACH(F, vdivq_f32(a.v[i], b.v[i])); }
  static F fma(F a, F b, F c) { EACH(F, vfmaq_f32(c.v[i], a.v[i], b.v[i])); }
  // Not fmax and fmin: those give another answer for NaN and for zeros of different sign.
  static F max(F a, F b) { EACH(F, vbslq_f32(vcgtq_f32(a.v[i], b.v[i]), a.v[i], b.v[i])); }
  static F min(F a, F b) { EACH(F, vbslq_f32(vcltq_f32(a.v[i], b.v[i]), a.v[i], b.v[i])); }
  static F abs(F a) { EACH(F, vabsq_f32(a.v[i])); }
  static F neg(F a) { EACH(F, vnegq_f32(a.v[i])); }
  static F round(F a) { EACH(F, vrndnq_f32(a.v[i])); }
  static float32x4_t keep(uint32x4_t mask, float32x4_t a) {
    return vreinterpretq_f32_u32(vandq_u32(mask, vreinterpretq_u32_f32(a)));
  }
  static F zero_below(F x, float limit, F a) {
    const float32x4_t at = vdupq_n_f32(limit);
    EACH(F, keep(vmvnq_u32(vcltq_f32(x.v[i], at)), a.v[i]));
  }
  static F allow(F a, uint16_t bits) {
    const uint32x4_t one = {1, 2, 4, 8};
    const float32x4_t never = vdupq_n_f32(-INFINITY);
    EACH(F, vbslq_f32(vtstq_u32(vdupq_n_u32(bits >> 4 * i), one), a.v[i], never));
  }
  static I loadi(const int32_t* p) { EACH(I, vld1q_s32(p + 4 * i)); }
  static void storei(int32_t* p, I a) {
    for (int i = 0; i < 4; i++) vst1q_s32(p + 4 * i, a.v[i]);
  }
  static I keep_from(I a, I least) { EACH(I, vandq_s32(vreinterpretq_s32_u32(vcgeq_s32(a.v[i], least.v[i])), a.v[i])); }
  using W = uint64x2_t;
  static W zerow() { return vdupq_n_u64(0); }
  static W addw(W sum, I a) {
    for (int i = 0; i < 4; i++) sum = vpadalq_u32(sum, vreinterpretq_u32_s32(a.v[i]));
    return sum;
  }
  static uint64_t sumw(W sum) { return vaddvq_u64(sum); }
  static float32x4_t power2(float32x4_t n) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23));
  }
  static F scale2(F a, F n) { EACH(F, vmulq_f32(a.v[i], power2(n.v[i]))); }
  static float sum(F a) {
    const float32x4_t four = vaddq_f32(vaddq_f32(a.v[0], a.v[2]), vaddq_f32(a.v[1], a.v[3]));
    return vpadds_f32(vadd_f32(vget_low_f32(four), vget_high_f32(four)));
  }
  static float hmax(F a) { return vmaxvq_f32(vmaxq_f32(vmaxq_f32(a.v[0], a.v[1]), vmaxq_f32(a.v[2], a.v[3]))); }
  static const uint16_t* words(const void* p) { return static_cast<const uint16_t*>(p); }
  static F load_f16(const void* p) { EACH(F, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(words(p) + 4 * i)))); }
  static F load_bf16(const void* p) { EACH(F, vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(words(p) + 4 * i), 16))); }
  // Of sixteen pairs the first of each, and the second of each.
  static uint32x4_t pairs(const void* p, int i) { return vreinterpretq_u32_u16(vld1q_u16(words(p) + 8 * i)); }
  static F even_bf16(const void* p) { EACH(F, vreinterpretq_f32_u32(vshlq_n_u32(pairs(p, i), 16))); }
  static F odd_bf16(const void* p) { EACH(F, vreinterpretq_f32_u32(vandq_u32(pairs(p, i), vdupq_n_u32(0xffff0000)))); }
  static uint32x4_t round_bf16(float32x4_t x) {  // in the upper half of each lane
    const uint32x4_t bits = vreinterpretq_u32_f32(x), odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    return vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), odd);
  }
  static void store_bf16_pairs(uint16_t* p, F even, F odd) {
    for (int i = 0; i < 4; i++)
      vst1q_u16(p + 8 * i, vreinterpretq_u16_u32(vsriq_n_u32(round_bf16(odd.v[i]), round_bf16(even.v[i]), 16)));
  }
  static F load_i8(const void* p) {
    const int8x16_t bytes = vld1q_s8(static_cast<const int8_t*>(p));
    const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_high_s8(bytes);
    return to_float(
        {vmovl_s16(vget_low_s16(low)), vmovl_high_s16(low), vmovl_s16(vget_low_s16(high)), vmovl_high_s16(high)});
  }

  static I set1i(int32_t x) { EACH(I, vdupq_n_s32(x)); }
  static I addi(I a, I b) { EACH(I, vaddq_s32(a.v[i], b.v[i])); }
  static I subi(I a, I b) { EACH(I, vsubq_s32(a.v[i], b.v[i])); }
  static I shl7(I a) { EACH(I, vshlq_n_s32(a.v[i], 7)); }
  static F to_float(I a) { EACH(F, vcvtq_f32_s32(a.v[i])); }
  static I to_int(F a) { EACH(I, vcvtnq_s32_f32(a.v[i])); }
  static int32_t sumi(I a) { return vaddvq_s32(vaddq_s32(vaddq_s32(a.v[0], a.v[1]), vaddq_s32(a.v[2], a.v[3]))); }
  static void store_i8(int8_t* p, I a) {
    const int16x8_t low = vmovn_high_s32(vmovn_s32(a.v[0]), a.v[1]), high = vmovn_high_s32(vmovn_s32(a.v[2]), a.v[3]);
    vst1q_s8(p, vmovn_high_s16(vmovn_s16(low), high));
  }

  static B loadb(const uint8_t* p) { EACH(B, vld1q_u8(p + 16 * i)); }
  static void storeb(uint8_t* p, B a) {
    for (int i = 0; i < 4; i++) vst1q_u8(p + 16 * i, a.v[i]);
  }
  static B low_nibble(B a) { EACH(B, vandq_u8(a.v[i], vdupq_n_u8(15))); }
  static B high_nibble(B a) { EACH(B, vshrq_n_u8(a.v[i], 4)); }
  // a, and from x moved left (right where negative) the bits of the mask, which a has not
  template <int left>
  static uint8x16_t or_moved(uint8x16_t a, uint8x16_t x, uint8_t mask) {
    if constexpr (left >= 0) x = vshlq_n_u8(x, left);
    else x = vshrq_n_u8(x, -left);
    return vbslq_u8(vdupq_n_u8(mask), x, a);
  }
  template <int R>
  static B or_bit5(B a, B plane) {
    EACH(B, or_moved<4 - R>(a.v[i], plane.v[i], 16));
  }
  template <int R>
  static B or_bits56(B a, B plane) {
    EACH(B, or_moved<4 - 2 * R>(a.v[i], plane.v[i], 48));
  }
#undef EACH
  // Both operands of the products are signed. So 8-bit weights have their zero, 128, taken off first,
  // and their sum starts from 0; the others, below 64, are what they are.
  template <int bits>
  static I start(int zero, int32_t total) {
    return set1i(bits == 8 ? 0 : -zero * total);
  }
  template <int bits>
  static int8x16_t signed_line(uint8x16_t u) {
    return vreinterpretq_s8_u8(bits == 8 ? veorq_u8(u, vdupq_n_u8(128)) : u);
  }
#if defined(QWELL_DOTPROD)
  // One register of activations serves four lines.
  template <int bits>
  static int32x4_t dot_four(int32x4_t acc, const B* u, int part, int8x16_t a) {
    acc = vdotq_laneq_s32(acc, signed_line<bits>(u[0].v[part]), a, 0);
    acc = vdotq_laneq_s32(acc, signed_line<bits>(u[1].v[part]), a, 1);
    acc = vdotq_laneq_s32(acc, signed_line<bits>(u[2].v[part]), a, 2);
    return vdotq_laneq_s32(acc, signed_line<bits>(u[3].v[part]), a, 3);
  }
  template <int bits, int lines>
  static int32x4_t dot_part(int32x4_t acc, const B* u, int part, const int8_t* a) {
    for (int i = 0; i < lines; i += 4) acc = dot_four<bits>(acc, u + i, part, vld1q_s8(a + 4 * i));
    return acc;
  }
#else
  // A 16-bit lane holds the products of kDeep lines with |a| <= 127: 8 * 31 * 127 < 2^15 for up to
  // five bits, 4 * 63 * 127, 2 * 128 * 127.
  template <int bits, int lines>
  static int32x4_t dot_part(int32x4_t acc, const B* u, int part, const int8_t* a) {
    constexpr int most = bits <= 5 ? 8 : bits == 6 ? 4 : 2, kDeep = lines < most ? lines : most;
#pragma GCC unroll 8
    for (int i = 0; i < lines; i += kDeep) {
      int16x8_t low = vdupq_n_s16(0), high = low;  // of the columns 0, 1 and 2, 3
#pragma GCC unroll 8
      for (int j = i; j < i + kDeep; j++) {
        const int8x16_t w = signed_line<bits>(u[j].v[part]), four = repeat_four(a + 4 * j);
        low = vmlal_s8(low, vget_low_s8(w), vget_low_s8(four));
        high = vmlal_high_s8(high, w, four);
      }
      acc = vaddq_s32(acc, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
    }
    return acc;
  }
  static int8x16_t repeat_four(const int8_t* a) {
    int32_t four;
    std::memcpy(&four, a, 4);
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
  }
#endif
  template <int bits, int lines>
  static I dot_lines(I acc, const B* u, const int8_t* a) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) acc.v[i] = dot_part<bits, lines>(acc.v[i], u, i, a);
    return acc;
  }
  // dot[m] += lines . a[m]: M rows against one half.
  template <int bits, int n, int M>
  static void dot_rows(I (*dot)[1], const B* const* lines, const int8_t* const* a) {
    for (int m = 0; m < M; m++) dot[m][0] = dot_lines<bits, n>(dot[m][0], lines[0], a[m]);
  }
  // Into the second-level cache. In assembly: see lanes/avx512.h.
  static void prefetch(const void* p) { asm volatile("prfm pldl2keep, [%0]" ::"r"(p)); }
};

}  // namespace
