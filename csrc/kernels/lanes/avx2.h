// Sixteen lanes in two 256-bit registers: AVX2 with FMA and F16C. With QWELL_AVX_VNNI defined the
// dot products are AVX-VNNI's.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

struct V {
  static constexpr int kHalves = 1;
  static constexpr int kHeads = 4, kWide = 1;  // attention: heads, key vectors at a time
  struct F {
    __m256 a, b;
  };
  struct I {
    __m256i a, b;
  };
  struct B {
    __m256i a, b;
  };

  static F set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static void store(float* p, F x) { _mm256_storeu_ps(p, x.a), _mm256_storeu_ps(p + 8, x.b); }
  static F add(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
  static F sub(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
  static F mul(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
  static F div(F x, F y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
  static F fma(F x, F y, F z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
  static F max(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
  static F min(F x, F y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
  static F abs(F x) {
    __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
  }
  static F neg(F x) {
    __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_xor_ps(sign, x.a), _mm256_xor_ps(sign, x.b)};
  }
  static F round(F x) {
    constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(x.a, mode), _mm256_round_ps(x.b, mode)};
  }
  static F zero_below(F x, float limit, F y) {
    __m256 at = _mm256_set1_ps(limit);
    return {_mm256_and_ps(_mm256_cmp_ps(x.a, at, _CMP_NLT_UQ), y.a),
            _mm256_and_ps(_mm256_cmp_ps(x.b, at, _CMP_NLT_UQ), y.b)};
  }
  static __m256 allow(__m256 x, int bits, __m256i which) {
    __m256i set = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(bits), which), which);
    return _mm256_blendv_ps(_mm256_set1_ps(-INFINITY), x, _mm256_castsi256_ps(set));
  }
  static F allow(F x, uint16_t bits) {
    const __m256i which = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return {allow(x.a, bits, which), allow(x.b, bits, _mm256_slli_epi32(which, 8))};
  }
  static I loadi(const int32_t* p) {
    const __m256i* q = reinterpret_cast<const __m256i*>(p);
    return {_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
  }
  static void storei(int32_t* p, I x) {
    __m256i* q = reinterpret_cast<__m256i*>(p);
    _mm256_storeu_si256(q, x.a), _mm256_storeu_si256(q + 1, x.b);
  }
  static I keep_from(I x, I least) {
    return {_mm256_andnot_si256(_mm256_cmpgt_epi32(least.a, x.a), x.a),
            _mm256_andnot_si256(_mm256_cmpgt_epi32(least.b, x.b), x.b)};
  }
  using W = __m256i;
  static W zerow() { return _mm256_setzero_si256(); }
  static W addw(W sum, __m256i x) {
    __m256i even = _mm256_and_si256(x, _mm256_set1_epi64x(0xffffffff));
    return _mm256_add_epi64(sum, _mm256_add_epi64(even, _mm256_srli_epi64(x, 32)));
  }
  static W addw(W sum, I x) { return addw(addw(sum, x.a), x.b); }
  static uint64_t sumw(W sum) {
    __m128i two = _mm_add_epi64(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    return uint64_t(_mm_cvtsi128_si64(two)) + uint64_t(_mm_extract_epi64(two, 1));
  }
  static __m256 power2(__m256 n) {
    __m256i bits = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 23));
  }
  static F scale2(F x, F n) { return mul(x, {power2(n.a), power2(n.b)}); }
  static float sum(F x) {
    __m256 b = _mm256_add_ps(x.a, x.b);
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
  }
  static float hmax(F x) {
    __m256 b = _mm256_max_ps(x.a, x.b);
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
  }
  static __m128i load128(const void* p, int at = 0) { return _mm_loadu_si128(static_cast<const __m128i*>(p) + at); }
  static F load_f16(const void* p) { return {_mm256_cvtph_ps(load128(p)), _mm256_cvtph_ps(load128(p, 1))}; }
  static __m256 widen_bf16(__m128i h) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16)); }
  static F load_bf16(const void* p) { return {widen_bf16(load128(p)), widen_bf16(load128(p, 1))}; }
  // Of sixteen pairs the first of each, and the second of each.
  static __m256i pairs(const void* p, int i) { return _mm256_loadu_si256(static_cast<const __m256i*>(p) + i); }
  static F even_bf16(const void* p) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(pairs(p, 0), 16)),
            _mm256_castsi256_ps(_mm256_slli_epi32(pairs(p, 1), 16))};
  }
  static F odd_bf16(const void* p) {
    const __m256i upper = _mm256_set1_epi32(int32_t(0xffff0000));
    return {_mm256_castsi256_ps(_mm256_and_si256(pairs(p, 0), upper)),
            _mm256_castsi256_ps(_mm256_and_si256(pairs(p, 1), upper))};
  }
  static __m256i round_bf16(__m256 x) {  // in the upper half of each lane
    const __m256i bits = _mm256_castps_si256(x),
                  odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    return _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  }
  static __m256i zip_bf16(__m256 even, __m256 odd) {
    return _mm256_blend_epi16(_mm256_srli_epi32(round_bf16(even), 16), round_bf16(odd), 0xaa);
  }
  static void store_bf16_pairs(uint16_t* p, F even, F odd) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), zip_bf16(even.a, odd.a));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p) + 1, zip_bf16(even.b, odd.b));
  }
  static F load_i8(const void* p) {
    __m128i bytes = load128(p);
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
  }

  static I set1i(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
  static I addi(I x, I y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
  static I subi(I x, I y) { return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)}; }
  static I shl7(I x) { return {_mm256_slli_epi32(x.a, 7), _mm256_slli_epi32(x.b, 7)}; }
  static F to_float(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
  static I to_int(F x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
  static int32_t sumi(I x) {
    __m256i b = _mm256_add_epi32(x.a, x.b);
    __m128i c = _mm_add_epi32(_mm256_castsi256_si128(b), _mm256_extracti128_si256(b, 1));
    c = _mm_add_epi32(c, _mm_shuffle_epi32(c, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(c, _mm_shuffle_epi32(c, 0xb1)));
  }
  static void store_i8(int8_t* p, I x) {
    __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xd8);
    __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
  }

  static B loadb(const uint8_t* p) {
    const __m256i* q = reinterpret_cast<const __m256i*>(p);
    return {_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
  }
  static void storeb(uint8_t* p, B x) {
    __m256i* q = reinterpret_cast<__m256i*>(p);
    _mm256_storeu_si256(q, x.a), _mm256_storeu_si256(q + 1, x.b);
  }
  static __m256i masked(__m256i x, char mask) { return _mm256_and_si256(x, _mm256_set1_epi8(mask)); }
  static B low_nibble(B x) { return {masked(x.a, 15), masked(x.b, 15)}; }
  static B high_nibble(B x) { return {masked(_mm256_srli_epi16(x.a, 4), 15), masked(_mm256_srli_epi16(x.b, 4), 15)}; }
  template <int left>
  static __m256i move(__m256i x) {
    return left > 0 ? _mm256_slli_epi16(x, left > 0 ? left : 0) : _mm256_srli_epi16(x, left > 0 ? 0 : -left);
  }
  template <int R>
  static B or_bit5(B x, B plane) {
    return {_mm256_or_si256(x.a, masked(move<4 - R>(plane.a), 16)),
            _mm256_or_si256(x.b, masked(move<4 - R>(plane.b), 16))};
  }
  template <int R>
  static B or_bits56(B x, B plane) {
    return {_mm256_or_si256(x.a, masked(move<4 - 2 * R>(plane.a), 48)),
            _mm256_or_si256(x.b, masked(move<4 - 2 * R>(plane.b), 48))};
  }
#if defined(QWELL_AVX_VNNI)
  template <int bits>
  static I start(int zero, int32_t total) {
    return set1i(-zero * total);
  }
  // dot[m] += lines . a[m] as in lanes/avx512.h, M rows against one half.
  template <int bits, int n, int M>
  [[gnu::always_inline]] static void dot_rows(I (*dot)[1], const B* const* lines, const int8_t* const* a) {
#pragma GCC unroll 8
    for (int i = 0; i < n; i++)
#pragma GCC unroll 4
      for (int m = 0; m < M; m++) {
        int32_t four;
        std::memcpy(&four, a[m] + 4 * i, 4);
        const __m256i fours = _mm256_set1_epi32(four);
        dot[m][0].a = _mm256_dpbusd_avx_epi32(dot[m][0].a, lines[0][i].a, fours);
        dot[m][0].b = _mm256_dpbusd_avx_epi32(dot[m][0].b, lines[0][i].b, fours);
      }
  }
#else
  // 8-bit weights have their zero, 128, taken off in dot_line, so their sum starts from 0.
  template <int bits>
  static I start(int zero, int32_t total) {
    return set1i(bits == 8 ? 0 : -zero * total);
  }
  // u < 2^bits and |a| <= 127, so that a 16-bit lane holds the sums of kDeep lines of vpmaddubsw:
  // 8 * 2 * 15 * 127 < 2^15. 8-bit weights become |u - 128| and give their sign to a: 2 * 128 * 127.
  template <int bits, int lines>
  static __m256i dot_lines(__m256i acc, const B* u, __m256i B::* part, const int8_t* a) {
    constexpr int kDeep = bits <= 4 ? 8 : bits == 5 ? 4 : bits == 6 ? 2 : 1;
#pragma GCC unroll 8
    for (int i = 0; i < lines; i += kDeep) {
      __m256i sum = _mm256_setzero_si256();
#pragma GCC unroll 8
      for (int j = i; j < i + kDeep && j < lines; j++) {
        int32_t four;
        std::memcpy(&four, a + 4 * j, 4);
        sum = _mm256_add_epi16(sum, dot_line<bits>(u[j].*part, _mm256_set1_epi32(four)));
      }
      acc = _mm256_add_epi32(acc, _mm256_madd_epi16(sum, _mm256_set1_epi16(1)));
    }
    return acc;
  }
  template <int bits>
  static __m256i dot_line(__m256i u, __m256i a) {
    if constexpr (bits < 8) return _mm256_maddubs_epi16(u, a);
    const __m256i w = _mm256_xor_si256(u, _mm256_set1_epi8(-128));
    return _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(a, w));
  }
  template <int bits, int lines>
  static I dot_lines(I acc, const B* u, const int8_t* a) {
    return {dot_lines<bits, lines>(acc.a, u, &B::a, a), dot_lines<bits, lines>(acc.b, u, &B::b, a)};
  }
  // dot[m] += lines . a[m]: M rows against one half.
  template <int bits, int n, int M>
  static void dot_rows(I (*dot)[1], const B* const* lines, const int8_t* const* a) {
    for (int m = 0; m < M; m++) dot[m][0] = dot_lines<bits, n>(dot[m][0], lines[0], a[m]);
  }
#endif
  // In assembly: see lanes/avx512.h.
  static void prefetch(const void* p) { asm volatile("prefetcht1 %0" ::"m"(*static_cast<const char*>(p))); }
};

}  // namespace
