// Sixteen lanes in one 512-bit register: AVX-512 F/BW/DQ/VL with VNNI.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

struct V {
  using F = __m512;
  using I = __m512i;
  using B = __m512i;
  static constexpr int kHalves = 2;
  static constexpr int kHeads = 8, kWide = 2;  // attention: heads, key vectors at a time

  static F set1(float x) { return _mm512_set1_ps(x); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, F a) { _mm512_storeu_ps(p, a); }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F div(F a, F b) { return _mm512_div_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static F min(F a, F b) { return _mm512_min_ps(a, b); }
  static F abs(F a) { return _mm512_abs_ps(a); }
  static F neg(F a) { return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f)); }
  static F round(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static F zero_below(F x, float limit, F a) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, set1(limit), _CMP_NLT_UQ), a);
  }
  static F allow(F a, uint16_t bits) { return _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), bits, a); }
  static I loadi(const int32_t* p) { return _mm512_loadu_si512(p); }
  static void storei(int32_t* p, I a) { _mm512_storeu_si512(p, a); }
  static I keep_from(I a, I least) { return _mm512_maskz_mov_epi32(_mm512_cmpge_epi32_mask(a, least), a); }
  using W = __m512i;
  static W zerow() { return _mm512_setzero_si512(); }
  static W addw(W sum, I a) {
    W even = _mm512_and_si512(a, _mm512_set1_epi64(0xffffffff));
    return _mm512_add_epi64(sum, _mm512_add_epi64(even, _mm512_srli_epi64(a, 32)));
  }
  static uint64_t sumw(W sum) { return uint64_t(_mm512_reduce_add_epi64(sum)); }
  static F scale2(F a, F n) {
    I bits = _mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23);
    return mul(a, _mm512_castsi512_ps(bits));
  }
  static float sum(F a) {
    __m256 b = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
  }
  static float hmax(F a) {
    __m256 b = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
  }
  static F load_f16(const void* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p))); }
  static F load_bf16(const void* p) {
    I wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
  }
  // Of sixteen pairs the first of each, and the second of each.
  static F even_bf16(const void* p) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16)); }
  static F odd_bf16(const void* p) {
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(p), set1i(int32_t(0xffff0000))));
  }
  static I round_bf16(F a) {  // in the upper half of each lane
    const I bits = _mm512_castps_si512(a), odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), set1i(1));
    return _mm512_add_epi32(_mm512_add_epi32(bits, set1i(0x7fff)), odd);
  }
  static void store_bf16_pairs(uint16_t* p, F even, F odd) {
    _mm512_storeu_si512(p, _mm512_mask_mov_epi16(_mm512_srli_epi32(round_bf16(even), 16), 0xaaaaaaaa, round_bf16(odd)));
  }
  static F load_i8(const void* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))));
  }

  static I set1i(int32_t x) { return _mm512_set1_epi32(x); }
  static I addi(I a, I b) { return _mm512_add_epi32(a, b); }
  static I subi(I a, I b) { return _mm512_sub_epi32(a, b); }
  static I shl7(I a) { return _mm512_slli_epi32(a, 7); }
  static F to_float(I a) { return _mm512_cvtepi32_ps(a); }
  static I to_int(F a) { return _mm512_cvtps_epi32(a); }
  static int32_t sumi(I a) { return _mm512_reduce_add_epi32(a); }
  static void store_i8(int8_t* p, I a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a)); }

  static B loadb(const uint8_t* p) { return _mm512_loadu_si512(p); }
  static void storeb(uint8_t* p, B a) { _mm512_storeu_si512(p, a); }
  static B zerob() { return _mm512_setzero_si512(); }
  static B subb(B a, int b) { return b ? _mm512_sub_epi8(a, _mm512_set1_epi8(char(b))) : a; }
  static B low_nibble(B a) { return _mm512_and_si512(a, _mm512_set1_epi8(15)); }
  static B high_nibble(B a) { return low_nibble(_mm512_srli_epi16(a, 4)); }
  // a | (x & mask) in one instruction
  static B or_masked(B a, B x, char mask) { return _mm512_ternarylogic_epi64(a, x, _mm512_set1_epi8(mask), 0xf8); }
  template <int R>
  static B or_bit5(B a, B plane) {
    B moved = R < 4 ? _mm512_slli_epi16(plane, R < 4 ? 4 - R : 0) : _mm512_srli_epi16(plane, R < 4 ? 0 : R - 4);
    return or_masked(a, moved, 16);
  }
  template <int R>
  static B or_bits56(B a, B plane) {
    B moved = R < 2 ? _mm512_slli_epi16(plane, R < 2 ? 4 - 2 * R : 0) : _mm512_srli_epi16(plane, R < 2 ? 0 : 2 * R - 4);
    return or_masked(a, moved, 48);
  }
  template <int bits>
  static I start(int zero, int32_t total) {
    return set1i(-zero * total);
  }
  // dot[m][h] += lines[h] . a[m]. Line after line: 2 M chains of sums keep both multipliers busy, where
  // one would wait for itself, and what is fetched of a row serves both halves.
  template <int bits, int n, int M>
  [[gnu::always_inline]] static void dot_rows(I (*dot)[2], const B* const* lines, const int8_t* const* a) {
#pragma GCC unroll 8
    for (int i = 0; i < n; i++)
#pragma GCC unroll 4
      for (int m = 0; m < M; m++) {
        int32_t four;
        std::memcpy(&four, a[m] + 4 * i, 4);
        dot[m][0] = _mm512_dpbusd_epi32(dot[m][0], lines[0][i], _mm512_set1_epi32(four));
        dot[m][1] = _mm512_dpbusd_epi32(dot[m][1], lines[1][i], _mm512_set1_epi32(four));
      }
  }
  // In assembly: GCC 12 takes a function that only prefetches for one without effect, and drops its calls.
  static void prefetch(const void* p) { asm volatile("prefetcht1 %0" ::"m"(*static_cast<const char*>(p))); }
};

}  // namespace
