// Where the tiled kernels of one thread work. Plain layout: no lanes, no tiles.
#pragma once

#include "kernels.h"

namespace qwell {

struct TileScratch {
  // A linear pass: which chunk is ready, and two chunks.
  static constexpr int64_t kLinearBytes = 64 + 2 * int64_t(TileChunks::kMost) * 2 * kTileBytes;

  // An attention item.
  TileScratch(uint8_t* memory, int group, int head_dim)
      : steps((head_dim + 31) / 32), tiles((group * kWindow + 15) / 16) {
    const int64_t queries = int64_t(tiles) * 16;
    q = memory;
    p = q + int64_t(tiles) * steps * kTileBytes;
    tail = p + 2 * 2 * kTileBytes;
    edge = reinterpret_cast<uint16_t*>(tail + 4 * kTileBytes);
    scores = reinterpret_cast<float (*)[16][kPage]>(edge + kPage * head_dim);
    out = scores[2][0];
    lanes = out + queries * head_dim;
    totals = lanes + queries * kLanes;
    top = totals + queries * partial_floats(head_dim);
    end = top + queries;
  }
  static int64_t bytes(int group, int head_dim) {
    const TileScratch s(nullptr, group, head_dim);
    return reinterpret_cast<uint8_t*>(s.end) - s.q;
  }

  int steps, tiles;                // of 32 along d; of 16 queries
  uint8_t *q, *p;                  // A [tile][step], A [2 tiles][2 halves of the keys]
  uint8_t* tail;                   // B, the last 16 of d filled up with zeros
  uint16_t* edge;                  // values of the last page, zeros behind the last key
  float (*scores)[16][kPage];      // [2 tiles]
  float *out, *lanes, *top, *end;  // [query][H], [query][16 lanes of the sum], [query]
  float* totals;                   // [query][partial_floats(H)]
};

}  // namespace qwell
