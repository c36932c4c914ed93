// Tiled kernels in plain loops, tile instructions emulated: the truth of the tiled formulas.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#define QWELL_PLAIN
#include "../tile_scratch.h"

#pragma GCC diagnostic ignored "-Wunused-function"
#include "lanes/scalar.h"

#include "lanes/bf16.h"

#include "lanes/tiles_emulated.h"

#include "tile_table.h"

const qwell::TileKernels qwell::kEmulatedScalarTiles = QWELL_TILE_TABLE;
