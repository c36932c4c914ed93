// Where the tiled kernels of one thread work. Plain layout: no lanes, no tiles.
#pragma once

#include "kernels.h"

namespace qwell {

struct TileScratch {
  // A linear pass: which chunk is ready, and two chunks.
  static constexpr int64_t kLinearBytes = 64 + 2 * int64_t(TileChunks::kMost) * 2 * kTileBytes;

  TileScratch(uint8_t* memory, int group, int head_dim) : steps((head_dim + 31) / 32) {
    const int64_t queries = int64_t(group) * kTileRows;
    q = memory;
    keys = q + group * tile_input_bytes(kTileRows, head_dim);
    values = keys + steps * (kPage / 16) * kTileBytes;
    p = values + 2 * (head_dim / 16) * kTileBytes;
    scores = reinterpret_cast<float (*)[kPage]>(p + 2 * kTileBytes);
    out = scores[16];
    top = out + queries * head_dim, sum = top + queries;
  }
  static int64_t bytes(int group, int head_dim) {
    const TileScratch s(nullptr, group, head_dim);
    return reinterpret_cast<uint8_t*>(s.sum + group * kTileRows) - s.q;
  }

  int steps;               // of 32 along d
  uint8_t *q, *keys;       // A [group][block of 32 rows], B [step][4 tiles of 16 keys]
  uint8_t *values, *p;     // B [2 halves of the keys][H / 16 tiles], A of one tile of rows
  float (*scores)[kPage];  // of one tile of rows
  float *out, *top, *sum;  // [group][32 rows]
};

}  // namespace qwell
