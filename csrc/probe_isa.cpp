// Compiles the probe's loops for each instruction set. The rule about target regions is told in
// kernels/avx2.cpp: what stands between push and pop has internal linkage.
#include "probe_isa.h"

#include <cstdint>

#include "cpu.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define QWELL_PROBE_OPAQUE(x) __asm__ volatile("" : "+v"(x))
#else
#if defined(__aarch64__)
#include <arm_neon.h>
#endif
#define QWELL_PROBE_OPAQUE(x) __asm__ volatile("" : "+w"(x))
#endif

namespace qwell {

namespace base {
namespace {
#define QWELL_PROBE_SUMS 2
#include "probe_loops.h"
#undef QWELL_PROBE_SUMS

typedef float Four __attribute__((vector_size(16)));

void f32(int64_t rounds) {
  const auto op = [](Four sum, Four a, Four b) { return sum * a + b; };  // no fused one to count on
  run_chains<12>(rounds, Four{}, Four{} + 0.5f, Four{} + 0.25f, op);
}

constexpr ProbeLoops kLoops{read_part, {f32, 12 * 4 * 2}, {}, {}};
}  // namespace
}  // namespace base

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
namespace avx2 {
namespace {
#define QWELL_PROBE_SUMS 4
#include "probe_loops.h"
#undef QWELL_PROBE_SUMS

void f32(int64_t rounds) {
  const auto op = [](__m256 sum, __m256 a, __m256 b) { return _mm256_fmadd_ps(a, b, sum); };
  run_chains<12>(rounds, _mm256_setzero_ps(), _mm256_set1_ps(0.5f), _mm256_set1_ps(0.25f), op);
}

void int8(int64_t rounds) {  // bytes to pairs to fours, as the kernels do without VNNI
  const __m256i ones = _mm256_set1_epi16(1);
  const auto op = [ones](__m256i sum, __m256i a, __m256i b) {
    __m256i pairs;  // in asm, or the products of all chains would be computed once
    __asm__ volatile("vpmaddubsw %3, %2, %1\n\tvpmaddwd %4, %1, %1\n\tvpaddd %1, %0, %0"
                     : "+x"(sum), "=&x"(pairs)
                     : "x"(a), "x"(b), "x"(ones));
    return sum;
  };
  run_chains<8>(rounds, _mm256_setzero_si256(), _mm256_set1_epi8(77), _mm256_set1_epi8(-55), op);
}

void int8_vnni(int64_t rounds) {
  const auto op = [](__m256i sum, __m256i a, __m256i b) {
    __asm__ volatile("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
    return sum;
  };
  run_chains<12>(rounds, _mm256_setzero_si256(), _mm256_set1_epi8(77), _mm256_set1_epi8(-55), op);
}

constexpr ProbeLoops kLoops{read_part, {f32, 12 * 8 * 2}, {int8, 8 * 32 * 2}, {}};
constexpr ProbeLoops kVnniLoops{read_part, kLoops.f32, {int8_vnni, 12 * 32 * 2}, {}};
}  // namespace
}  // namespace avx2
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")
namespace avx512 {
namespace {
#define QWELL_PROBE_SUMS 8
#include "probe_loops.h"
#undef QWELL_PROBE_SUMS

void f32(int64_t rounds) {
  const auto op = [](__m512 sum, __m512 a, __m512 b) { return _mm512_fmadd_ps(a, b, sum); };
  run_chains<16>(rounds, _mm512_setzero_ps(), _mm512_set1_ps(0.5f), _mm512_set1_ps(0.25f), op);
}

void int8(int64_t rounds) {
  const auto op = [](__m512i sum, __m512i a, __m512i b) {
    __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));  // GCC 12 spills the intrinsic's sums
    return sum;
  };
  run_chains<16>(rounds, _mm512_setzero_si512(), _mm512_set1_epi8(77), _mm512_set1_epi8(-55), op);
}

void bf16(int64_t rounds) {  // pairs of bf16 as integers: an empty asm takes no __m512bh
  const auto op = [](__m512 sum, __m512i a, __m512i b) { return _mm512_dpbf16_ps(sum, __m512bh(a), __m512bh(b)); };
  run_chains<16>(rounds, _mm512_setzero_ps(), _mm512_set1_epi16(0x3f00), _mm512_set1_epi16(0x3e80), op);
}

constexpr ProbeLoops kLoops{read_part, {f32, 16 * 16 * 2}, {int8, 16 * 64 * 2}, {bf16, 16 * 32 * 2}};
}  // namespace
}  // namespace avx512
#pragma GCC pop_options
#elif defined(__aarch64__)
namespace neon {
namespace {
void f32(int64_t rounds) {
  const auto op = [](float32x4_t sum, float32x4_t a, float32x4_t b) { return vfmaq_f32(sum, a, b); };
  base::run_chains<16>(rounds, vdupq_n_f32(0), vdupq_n_f32(0.5f), vdupq_n_f32(0.25f), op);
}

constexpr ProbeLoops kLoops{base::read_part, {f32, 16 * 4 * 2}, {}, {}};
}  // namespace
}  // namespace neon

#pragma GCC push_options
#pragma GCC target("arch=armv8.2-a+dotprod")
namespace dotprod {
namespace {
#define QWELL_PROBE_SUMS 4
#include "probe_loops.h"
#undef QWELL_PROBE_SUMS

void int8(int64_t rounds) {
  const auto op = [](int32x4_t sum, int8x16_t a, int8x16_t b) { return vdotq_s32(sum, a, b); };
  run_chains<16>(rounds, vdupq_n_s32(0), vdupq_n_s8(77), vdupq_n_s8(-55), op);
}

constexpr ProbeLoops kLoops{read_part, neon::kLoops.f32, {int8, 16 * 16 * 2}, {}};
}  // namespace
}  // namespace dotprod
#pragma GCC pop_options
#endif

ProbeLoops probe_loops([[maybe_unused]] const std::string& isa) {
#if defined(__x86_64__)
  if (isa == "avx2") return avx2::kLoops;
  if (isa == "avxvnni") return avx2::kVnniLoops;
  if (isa != "scalar" && cpu().avx512_vnni) {
    ProbeLoops loops = avx512::kLoops;
    if (isa == "avx512" || !cpu().avx512_bf16) loops.bf16 = {};
    return loops;
  }
#elif defined(__aarch64__)
  if (isa == "neon") return neon::kLoops;
  if (isa == "dotprod") return dotprod::kLoops;
#endif
  return base::kLoops;
}

}  // namespace qwell
