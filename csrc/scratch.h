// Per-thread and shared working memory of a step.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "program.h"
#include "tile_scratch.h"

namespace qwell {

inline constexpr int kItemRows = 16;  // rows of an attention item without tiles

// `rows` rows in every form a linear phase may need: float, bf16, quantised, tiles of bf16. Memory nobody writes costs
// nothing.
struct RowStore {
  RowStore(uint8_t* memory, int rows, int k);
  static int64_t bytes(int rows, int k) {
    return int64_t(rows) * (int64_t(k) * (4 + 2 + 1 + 1) + int64_t(k) / kGroup * (4 + 8 + 4 + 4 + 4 + 8) + 4) + 4096 +
           row_slack(k) + 2 * tile_input_bytes(rows, k);
  }
  // Prepares row r from the floats x (padded to phase.k), but for its place among the tiles.
  void prepare(const Kernels& kernels, const Phase& phase, const Forms& forms, int r, const float* x);

  std::vector<Row> rows;
  int k_max;
  uint8_t *tiles, *next_tiles;  // of the rows here; of what they become, where the next phase reads that
};

inline constexpr int kRowsToDeal = 64;  // a thread, so that unpacking each panel for itself costs little
inline constexpr int kPieceRows = 4;    // rows whose row ops are done in one piece of work
// A pass over tiles reads its rows from the second-level cache while they take no more than
// kNearRows; else it covers as many panels as kNearSums of results allow.
inline constexpr int64_t kNearRows = 1 << 20, kNearSums = 512 << 10;

struct Program::Scratch {
  Scratch(const Shape& shape, int max_rows, int k, int unit)
      : few_memory(RowStore::bytes(4, k), false),
        few(few_memory.data(), 4, k),
        linear_scratch(linear_scratch_bytes(k), true),
        tile_memory(int64_t(max_rows) * 2 * unit * 4, true),
        tile_sums(4 * sum_bytes(max_rows, unit), true),
        tile_linear(TileScratch::kLinearBytes, true),
        tile_kernels(TileScratch::bytes(shape.heads / shape.kv_heads, shape.head_dim), true),
        unpacked_pages(kPart / kPage * kv_page_bytes(shape.head_dim, false), true),
        normed(16 * int64_t(k)),
        partials((kItemRows + 1) * (shape.heads / shape.kv_heads) * partial_floats(shape.head_dim)),
        result_rows(2 * kPieceRows * unit) {}

  // Results of a product (0) and of its partner (1): of rows that go over tiles (two sets, one is
  // finished while the other is computed), of the others, and some rows of the former in one piece.
  float* sums(int set, int which) {
    return reinterpret_cast<float*>(tile_sums.data() + (2 * set + which) * (tile_sums.size() / 4));
  }
  float* tile(int which) { return reinterpret_cast<float*>(tile_memory.data() + which * (tile_memory.size() / 2)); }
  float* rows(int which) { return result_rows.data() + which * result_rows.size() / 2; }

  Region few_memory;
  RowStore few;  // rows of a step of up to four, prepared by every thread for itself
  Region linear_scratch, tile_memory, tile_sums, tile_linear, tile_kernels, unpacked_pages;
  std::vector<float> normed, partials;  // partials: of an attention item
  std::vector<float> result_rows;
  std::vector<const uint8_t*> pages;

 private:
  static int64_t sum_bytes(int max_rows, int unit) {
    return std::max(kNearSums, int64_t(unit / kPanel) * tile_floats(max_rows) * 4);
  }
};

}  // namespace qwell
