// The kernels for the NEON that every AArch64 CPU has.
#if defined(__aarch64__)
#include "lanes/neon.h"

#include "table.h"

const qwell::Kernels qwell::kNeonKernels = QWELL_KERNEL_TABLE("neon");
#endif
