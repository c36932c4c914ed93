// rows.h on AVX-512 without BF16. See kernels/avx2.cpp for the rule about targets.
#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "rows.h"

#pragma GCC diagnostic ignored "-Wunused-function"
// GCC 12 takes the undefined operands inside its own intrinsics for faults of ours.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")
#define QWELL_HAS_BF16 0
#include "round.h"

#include "adamw_body.h"
#include "rows_body.h"
#pragma GCC pop_options

const qwell::TrainRows qwell::kTrainRowsAvx512 = QWELL_TRAIN_ROWS;
#endif
