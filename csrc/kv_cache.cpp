#include "kv_cache.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels.h"

namespace qwell {

KvCache::KvCache(const Shape& s, int pages, bool int8)
    : shape(s),
      pages(pages),
      int8(int8),
      memory(int64_t(s.layers) * pages * s.kv_heads * kv_page_bytes(s.head_dim, int8), false) {}

uint8_t* KvCache::at(int layer, int page, int head) const {
  const int64_t index = (int64_t(layer) * pages + page) * shape.kv_heads + head;
  return memory.data() + index * kv_page_bytes(shape.head_dim, int8);
}

static uint16_t to_bf16(float f) {  // round to nearest even; NaN stays NaN
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t(bits >> 16 | 64);
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static float from_bf16(uint16_t h) {
  const uint32_t bits = uint32_t(h) << 16;
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}

// The scale of up to 32 numbers, in bf16.
static uint16_t scale_of(const float* x, int n) {
  float most = 0, not_finite = 0;
  for (int i = 0; i < n; i++) most = std::max(most, std::fabs(x[i])), not_finite += x[i] * 0.0f;
  return to_bf16(not_finite == 0 ? most / 127 : std::numeric_limits<float>::quiet_NaN());
}

static int8_t code_of(float x, float scale) {
  if (!(scale > 0)) return 0;
  return int8_t(std::clamp(std::nearbyint(x / scale), -127.0f, 127.0f));
}

void KvCache::write_key(uint8_t* page, int slot, const float* key) const {
  const int H = shape.head_dim;
  if (!int8) {
    for (int d = 0; d < H; d++) reinterpret_cast<uint16_t*>(page)[d * kPage + slot] = to_bf16(key[d]);
    return;
  }
  uint16_t* scales = reinterpret_cast<uint16_t*>(page + H * kPage);
  for (int d = 0; d < H; d++) {
    uint16_t& scale = scales[d / 32 * kPage + slot];
    if (d % 32 == 0) scale = scale_of(key + d, std::min(32, H - d));
    page[d * kPage + slot] = uint8_t(code_of(key[d], from_bf16(scale)));
  }
}

void KvCache::write_value(uint8_t* page, int slot, const float* value) const {
  const int H = shape.head_dim, groups = kv_groups(H);
  uint8_t* values = page + kv_page_bytes(H, int8) / 2;
  if (!int8) {
    for (int d = 0; d < H; d++) reinterpret_cast<uint16_t*>(values)[slot * H + d] = to_bf16(value[d]);
    return;
  }
  uint16_t* scales = reinterpret_cast<uint16_t*>(values + H * kPage);
  for (int d = 0; d < H; d++) {
    uint16_t& scale = scales[slot * groups + d / 32];
    if (d % 32 == 0) scale = scale_of(value + d, std::min(32, H - d));
    values[slot * H + d] = uint8_t(code_of(value[d], from_bf16(scale)));
  }
}

}  // namespace qwell
