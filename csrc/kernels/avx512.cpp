// The kernels for AVX-512 F/BW/DQ/VL + VNNI. See avx2.cpp for the rule about targets.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "../kernels.h"

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")
#include "lanes/avx512.h"

#include "table.h"
#pragma GCC pop_options

const qwell::Kernels qwell::kAvx512Kernels = QWELL_KERNEL_TABLE("avx512");
#endif
