// The kernels for NEON with the dot product instructions. See avx2.cpp for the rule about targets.
#if defined(__aarch64__)
#include <arm_neon.h>

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "../kernels.h"

#define QWELL_DOTPROD  // GCC 12 does not define its own macro inside a region
#pragma GCC push_options
#pragma GCC target("arch=armv8.2-a+dotprod")
#include "lanes/neon.h"

#include "table.h"
#pragma GCC pop_options

const qwell::Kernels qwell::kDotprodKernels = QWELL_KERNEL_TABLE("dotprod");
#endif
