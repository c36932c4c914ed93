// The rows of a linear phase, in the forms its products read.
#include "scratch.h"

#include <cstring>
#include <utility>

namespace qwell {

RowStore::RowStore(uint8_t* memory, int count, int k) : rows(count), k_max(k) {
  const auto take = [&](int64_t bytes) { return std::exchange(memory, memory + (bytes + 63) / 64 * 64); };
  const int64_t n = k, groups = n / kGroup;
  float* f32 = reinterpret_cast<float*>(take(count * n * 4));
  uint16_t* bf16 = reinterpret_cast<uint16_t*>(take(count * n * 2));
  float* scale = reinterpret_cast<float*>(take(count * groups * 4));
  int32_t* sum = reinterpret_cast<int32_t*>(take(count * groups * 8));
  float* scaled_sum = reinterpret_cast<float*>(take(count * groups * 4));
  int32_t* loud = reinterpret_cast<int32_t*>(take(count * (groups + 1) * 4));
  int8_t* rest = reinterpret_cast<int8_t*>(take(count * n));
  float* rest_scale = reinterpret_cast<float*>(take(count * groups * 4));
  int32_t* rest_sum = reinterpret_cast<int32_t*>(take(count * groups * 8));
  int8_t* q = reinterpret_cast<int8_t*>(take(count * n + row_slack(n)));
  tiles = take(tile_input_bytes(count, k)), next_tiles = take(tile_input_bytes(count, k));
  for (int64_t r = 0; r < count; r++)
    rows[r] = {f32 + r * n,
               bf16 + r * n,
               q + r * n,
               scale + r * groups,
               sum + r * 2 * groups,
               scaled_sum + r * groups,
               loud + r * (groups + 1),
               rest + r * n,
               rest_scale + r * groups,
               rest_sum + r * 2 * groups};
}

void RowStore::prepare(const Kernels& kernels, const Phase& phase, const Forms& forms, int r, const float* x) {
  if (forms.f32) std::memcpy(rows[r].f32, x, phase.k * sizeof(float));
  if (forms.bf16) kernels.round(x, phase.k, rows[r].bf16);
  if (forms.q8) kernels.quantize(x, phase.k, rows[r]);
}

}  // namespace qwell
