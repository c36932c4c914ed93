// Per-thread and shared working memory of a step.
#pragma once

#include <memory>
#include <vector>

#include "program.h"

namespace qwell {

// `rows` rows in every form a linear phase may need: float, 8-bit and 16-bit with their scales.
struct RowStore {
  RowStore(uint8_t* memory, int rows, int k);
  static int64_t bytes(int rows, int k) {
    return int64_t(rows) * (int64_t(k) * (4 + 1 + 2) + int64_t(k) / kGroup * 8 + int64_t(k) / kLanes * 8) + 4096;
  }
  // Prepares row r from the floats x (padded to k).
  void prepare(const Kernels& kernels, const Phase& phase, int r, const float* x, int k);

  std::vector<Row> rows;
  int k_max;
  float *f32, *scale8, *scale16;
  int8_t *q8, *lo, *hi;
  int32_t *sum8, *sum16;
};

struct Program::Scratch {
  Scratch(int max_rows, int k, int unit)
      : few_memory(RowStore::bytes(4, k), false),
        few(few_memory.data(), 4, k),
        unpacked_memory(unpacked_bytes(k), true),
        tile_memory(int64_t(max_rows) * 2 * unit * 4, true),
        normed(k) {}
  float* tile(int which, int max_rows, int unit) {
    return reinterpret_cast<float*>(tile_memory.data()) + int64_t(which) * max_rows * unit;
  }
  Region few_memory;
  RowStore few;  // rows of a step of up to four, prepared by every thread for itself
  Region unpacked_memory, tile_memory;
  std::vector<float> normed;
  std::vector<const uint16_t*> pages;
  std::vector<float> parts;  // attention of one row
};

}  // namespace qwell
