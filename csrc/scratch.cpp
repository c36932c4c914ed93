// The rows of a linear phase, in the forms its products read.
#include "scratch.h"

#include <cstring>

namespace qwell {

RowStore::RowStore(uint8_t* memory, int count, int k) : rows(count), k_max(k) {
  const int64_t n = int64_t(count) * k;
  f32 = reinterpret_cast<float*>(memory);
  scale8 = f32 + n, scale16 = scale8 + n / kGroup;
  sum8 = reinterpret_cast<int32_t*>(scale16 + n / kGroup), sum16 = sum8 + n / kLanes;
  q8 = reinterpret_cast<int8_t*>(sum16 + n / kLanes), lo = q8 + n, hi = lo + n;
  tiles = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(hi + n) + 63) / 64 * 64);
  next_tiles = tiles + tile_input_bytes(count, k);
  for (int64_t r = 0; r < count; r++)
    rows[r] = {f32 + r * k,
               q8 + r * k,
               lo + r * k,
               hi + r * k,
               scale8 + r * k / kGroup,
               scale16 + r * k / kGroup,
               sum8 + r * k / kLanes,
               sum16 + r * k / kLanes};
}

void RowStore::prepare(const Kernels& kernels, const Phase& phase, const Forms& forms, int r, const float* x) {
  const int64_t at = int64_t(r) * k_max;
  const int k = phase.k;
  if (forms.f32) std::memcpy(f32 + at, x, k * sizeof(float));
  if (forms.q8) kernels.quantize(x, k, Precision::Q8, q8 + at, nullptr, scale8 + at / kGroup, sum8 + at / kLanes);
  if (forms.q16) kernels.quantize(x, k, Precision::Q16, lo + at, hi + at, scale16 + at / kGroup, sum16 + at / kLanes);
}

}  // namespace qwell
