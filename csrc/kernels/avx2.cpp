// The kernels for AVX2 + FMA + F16C. The baseline of every file stays x86-64: only what stands
// between push and pop may use more, and all of it has internal linkage, so no AVX2 copy of a
// shared inline function can reach another file.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "../kernels.h"

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#include "lanes/avx2.h"

#include "table.h"
#pragma GCC pop_options

const qwell::Kernels qwell::kAvx2Kernels = QWELL_KERNEL_TABLE("avx2");
#endif
