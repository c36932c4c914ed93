// Per-thread and shared working memory of a step.
#pragma once

#include <memory>
#include <vector>

#include "program.h"
#include "tile_scratch.h"

namespace qwell {

inline constexpr int kItemRows = 16;  // rows of an attention item without tiles

// `rows` rows in every form a linear phase may need: float, 8-bit and 16-bit with their scales,
// bf16 tiles. Memory nobody writes costs nothing.
struct RowStore {
  RowStore(uint8_t* memory, int rows, int k);
  static int64_t bytes(int rows, int k) {
    return int64_t(rows) * (int64_t(k) * (4 + 1 + 2) + int64_t(k) / kGroup * 8 + int64_t(k) / kLanes * 8) + 4096 +
           row_slack(k) + (rows + kTileRows - 1) / kTileRows * tile_block_bytes(k);
  }
  // Prepares row r from the floats x (padded to phase.k).
  void prepare(const Kernels& kernels, const Phase& phase, const Forms& forms, int r, const float* x);

  std::vector<Row> rows;
  int k_max;
  float *f32, *scale8, *scale16;
  int8_t *q8, *lo, *hi;
  int32_t *sum8, *sum16;
  uint8_t* tiles;
};

struct Program::Scratch {
  Scratch(const Shape& shape, int max_rows, int k, int unit)
      : few_memory(RowStore::bytes(4, k), false),
        few(few_memory.data(), 4, k),
        unpacked_memory(unpacked_bytes(k), true),
        tile_memory(int64_t(tile_rows(max_rows)) * 2 * unit * 4, true),
        tile_kernels(TileScratch::bytes(shape.heads / shape.kv_heads, shape.head_dim), true),
        unpacked_pages(kPart / kPage * kv_page_bytes(shape.head_dim, false), true),
        normed(k),
        partials((kItemRows + 1) * (shape.heads / shape.kv_heads) * partial_floats(shape.head_dim)) {}
  // Tiled kernels write whole tiles, so reply rows begin after a multiple of kTileRows.
  static int tile_rows(int max_rows) { return max_rows + kTileRows; }
  float* tile(int which, int max_rows, int unit) {
    return reinterpret_cast<float*>(tile_memory.data()) + int64_t(which) * tile_rows(max_rows) * unit;
  }
  Region few_memory;
  RowStore few;  // rows of a step of up to four, prepared by every thread for itself
  Region unpacked_memory, tile_memory, tile_kernels, unpacked_pages;
  std::vector<float> normed, partials;  // partials: of an attention item
  std::vector<const uint8_t*> pages;
};

}  // namespace qwell
