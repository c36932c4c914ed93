// gemm.h on AVX-512 without BF16: the halves of a pair as float32, multiplied and added one after
// the other, the first k first.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cstdint>

#include "gemm.h"

// GCC 12 takes the undefined operands inside its own intrinsics for faults of ours.
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")
#define QWELL_HAS_BF16 0
#include "round.h"

#include "gemm_vectors.h"

namespace {

struct FloatPair {
  struct Halves {
    __m512 first, second;
  };
  static Halves a(__m512i pair) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(pair, 16)),
            _mm512_castsi512_ps(_mm512_and_si512(pair, _mm512_set1_epi32(int32_t(0xffff0000))))};
  }
  static Halves b(__m512i pairs) { return a(pairs); }
  static __m512 dot(__m512 sum, const Halves& a, const Halves& b) {
    return _mm512_fmadd_ps(a.second, b.second, _mm512_fmadd_ps(a.first, b.first, sum));
  }
};

}  // namespace
#pragma GCC pop_options

const qwell::GemmForm qwell::kGemmAvx512 = {gemm_team<Vectors<FloatPair>>, gemm_alone<Vectors<FloatPair>>};
#endif
