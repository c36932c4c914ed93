// The kernels for AVX2 with AVX-VNNI, as in CPUs of laptops. See avx2.cpp for the rule about targets.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "../kernels.h"

#define QWELL_AVX_VNNI
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avxvnni")
#include "lanes/avx2.h"

#include "table.h"
#pragma GCC pop_options

const qwell::Kernels qwell::kAvxVnniKernels = QWELL_KERNEL_TABLE("avxvnni");
#endif
