// gemm.h on AVX-512 with BF16: VDPBF16PS, which rounds after either product of a pair, the odd one
// first, and reads and writes numbers below the smallest normal as zeros.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cstdint>

#include "gemm.h"

// GCC 12 takes the undefined operands inside its own intrinsics for faults of ours.
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")
#define QWELL_HAS_BF16 1
#include "round.h"

#include "gemm_vectors.h"

namespace {

struct Bf16Pair {
  static __m512i a(__m512i pair) { return pair; }
  static __m512i b(__m512i pairs) { return pairs; }
  static __m512 dot(__m512 sum, __m512i a, __m512i b) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }
};

}  // namespace
#pragma GCC pop_options

const qwell::GemmForm qwell::kGemmAvx512Bf16 = {gemm_team<Vectors<Bf16Pair>>, gemm_alone<Vectors<Bf16Pair>>};
#endif
