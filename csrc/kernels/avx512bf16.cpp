// Pairs of bf16 on AVX-512 with BF16. See avx2.cpp for the rule about targets.
#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "../tile_scratch.h"

// The lanes' own tables hold the families that read no pairs.
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")
#include "lanes/avx512.h"

#include "lanes/bf16_avx512.h"

#include "lanes/pairs_avx512.h"

#include "pairs.h"
#pragma GCC pop_options

const qwell::PairKernels qwell::kPairs = QWELL_PAIR_TABLE;
#endif
