// gemm.h on the tiles of AMX.
#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cstdint>

#include "gemm.h"

// GCC 12 takes the undefined operands inside its own intrinsics for faults of ours.
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,amx-tile,amx-bf16")
#define QWELL_HAS_BF16 1
#include "round.h"

#include "../kernels/lanes/amx.h"

#include "gemm_walk.h"

namespace {

struct Amx {
  static constexpr int64_t kPackedA = 1 << 20;
  static void begin() { T::begin(); }
  static void end() { T::end(); }
  static void dots(const uint8_t* a, const uint8_t* b, int steps, int, bool fresh, float* c, Beside& beside) {
    if (fresh) {
      T::zero<0>(), T::zero<1>(), T::zero<2>(), T::zero<3>();
    } else {
      T::load<0>(c, 64), T::load<1>(c + 256, 64), T::load<2>(c + 512, 64), T::load<3>(c + 768, 64);
    }
    for (int s = 0; s < steps; s++, a += kStepBytes, b += kStepBytes) {
      T::load<6>(b, 64);
      T::stream<4>(a, 64);
      T::dot<0, 4, 6>();
      T::load<7>(b + kTileBytes, 64);
      T::dot<1, 4, 7>();
      T::stream<5>(a + kTileBytes, 64);
      T::dot<2, 5, 6>();
      T::dot<3, 5, 7>();
      beside.a_little();
    }
    T::store<0>(c, 64), T::store<1>(c + 256, 64), T::store<2>(c + 512, 64), T::store<3>(c + 768, 64);
  }
};

}  // namespace
#pragma GCC pop_options

const qwell::GemmForm qwell::kGemmAmx = {gemm_team<Amx>, gemm_alone<Amx>};
#endif
