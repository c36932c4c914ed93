// Pairs of bf16 in plain loops: the truth of avx512bf16.cpp.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#define QWELL_PLAIN
#include "../tile_scratch.h"

#pragma GCC diagnostic ignored "-Wunused-function"
#include "lanes/scalar.h"

#include "lanes/bf16.h"

#include "lanes/pairs_plain.h"

#include "pairs.h"

const qwell::PairKernels qwell::kEmulatedPairs = QWELL_PAIR_TABLE;
