// The kernels in plain loops, for any machine: slow, the truth.
#include "lanes/scalar.h"

#include "table.h"

const qwell::Kernels qwell::kScalarKernels = QWELL_KERNEL_TABLE("scalar");
