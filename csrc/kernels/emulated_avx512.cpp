// Tiled kernels with the tile instructions emulated, over AVX-512 with BF16: all of amx.cpp but the
// tiles themselves, for tests on CPUs without AMX.
#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "../tile_scratch.h"

// The lanes' own tables hold the families that read no tiles.
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")
#include "lanes/avx512.h"

#include "lanes/bf16_avx512.h"

#include "lanes/tiles_emulated.h"

#include "tile_table.h"
#pragma GCC pop_options

const qwell::TileKernels qwell::kEmulatedAvx512Tiles = QWELL_TILE_TABLE;
#endif
