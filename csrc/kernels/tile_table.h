// Included at the end of a tile file: the tiled families over its V, Bf16 and T, as one table.
#pragma once

#include "tile_walk.h"

#include "tile_attention.h"
#include "tile_bytes.h"
#include "tiles.h"

#define QWELL_TILE_TABLE                                                                                             \
  {                                                                                                                  \
    T::begin, T::end, pack_tiles,                                                                                    \
        {nullptr,                                                                                                    \
         nullptr,                                                                                                    \
         linear_tiles<Format::BF16>,                                                                                 \
         linear_tiles<Format::Q4_0>,                                                                                 \
         linear_tiles<Format::Q4_1>,                                                                                 \
         linear_tiles<Format::Q5_0>,                                                                                 \
         linear_tiles<Format::Q5_1>,                                                                                 \
         linear_tiles<Format::Q8_0>,                                                                                 \
         linear_tiles<Format::Q2_K>,                                                                                 \
         linear_tiles<Format::Q3_K>,                                                                                 \
         linear_tiles<Format::Q4_K>,                                                                                 \
         linear_tiles<Format::Q5_K>,                                                                                 \
         linear_tiles<Format::Q6_K>},                                                                                \
        tile_result, tile_silu, {attention_tiles, attention_tiles_part, attention_tiles_merge}, {                    \
      nullptr, nullptr, nullptr, linear_bytes<Format::Q4_0>, linear_bytes<Format::Q4_1>, linear_bytes<Format::Q5_0>, \
          linear_bytes<Format::Q5_1>, linear_bytes<Format::Q8_0>, linear_bytes<Format::Q2_K>,                        \
          linear_bytes<Format::Q3_K>, linear_bytes<Format::Q4_K>, linear_bytes<Format::Q5_K>,                        \
          linear_bytes<Format::Q6_K>                                                                                 \
    }                                                                                                                \
  }
