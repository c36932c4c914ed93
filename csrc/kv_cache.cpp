#include "kv_cache.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

namespace qwell {

KvCache::KvCache(const Shape& s, int pages, KeyBias bias, bool int8)
    : shape(s),
      pages(pages),
      int8(int8),
      memory(int64_t(s.layers) * pages * s.kv_heads * kv_page_bytes(s.head_dim, int8), true),
      bias_(std::move(bias.bias)),
      still_(std::move(bias.still)) {
  bias_.resize(of_head(s.layers, 0)), still_.resize(of_head(s.layers, 0));
  if (!int8) return;
  const int H = s.head_dim, half = H / 2;
  page_turns_.resize(size_t(pages) * H), slot_turns_.resize(size_t(kPage) * H);
  for (int d = 0; d < half; d++) {
    for (int p = 0; p < pages; p++) {
      const float angle = float(p * kPage) * bias.inv_freq[d];
      page_turns_[size_t(p) * H + d] = std::cos(angle), page_turns_[size_t(p) * H + half + d] = std::sin(angle);
    }
    for (int j = 0; j < kPage; j++) {
      const float angle = float(j) * bias.inv_freq[d];
      slot_turns_[d * kPage + j] = std::cos(angle), slot_turns_[(half + d) * kPage + j] = std::sin(angle);
    }
  }
}

KeyCentre KvCache::centre(int layer, int head) const {
  if (!int8) return {};
  const size_t at = of_head(layer, head);
  return {bias_.data() + at, still_.data() + at, page_turns_.data(), slot_turns_.data()};
}

uint8_t* KvCache::at(int layer, int page, int head) const {
  const int first = page / kTogether * kTogether, together = std::min(kTogether, pages - first);
  const int64_t index =
      (int64_t(first) * shape.layers + layer * together) * shape.kv_heads + head * together + page - first;
  return memory.data() + index * kv_page_bytes(shape.head_dim, int8);
}

static uint16_t to_bf16(float f) {  // round to nearest even; NaN stays NaN
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t(bits >> 16 | 64);
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static constexpr uint16_t kNaN = 0x7fc0;  // in bf16

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

// key - R(j) R(64 p) bias for the token at 64 p + j, as the kernels add it again.
static void take_centre(const KeyCentre& centre, int position, int head_dim, const float* key, float* rest) {
  const int half = head_dim / 2, slot = position % kPage;
  const float *lo = centre.bias, *hi = lo + half;
  const float *cos = centre.pages + int64_t(position / kPage) * head_dim, *sin = cos + half;
  for (int d = 0; d < half; d++) {
    const float a = lo[d] * cos[d] - hi[d] * sin[d], b = hi[d] * cos[d] + lo[d] * sin[d];
    const float c = centre.slots[d * kPage + slot], s = centre.slots[(half + d) * kPage + slot];
    rest[d] = key[d] - (a * c - b * s), rest[half + d] = key[half + d] - (b * c + a * s);
  }
}

void KvCache::write_key(int layer, int page, int head, int position, const float* key) const {
  const int H = shape.head_dim, slot = position % kPage;
  uint8_t* keys = at(layer, page, head);
  if (!int8) {
    float not_finite = 0;
    for (int d = 0; d < H; d++) not_finite += key[d] * 0.0f;
    uint16_t* pairs = reinterpret_cast<uint16_t*>(keys) + 2 * slot;
    const float* still = still_.data() + of_head(layer, head);
    const auto number = [&](int d) { return not_finite == 0 ? to_bf16(key[d] - still[d]) : kNaN; };
    for (int d = 0; d < H; d += 2, pairs += 2 * kPage) pairs[0] = number(d), pairs[1] = number(d + 1);
    return;
  }
  float rest[kMaxHeadDim];
  take_centre(centre(layer, head), position, H, key, rest);
  uint16_t* scales = reinterpret_cast<uint16_t*>(keys + H * kPage);
  for (int d = 0; d < H; d++) {
    uint16_t& scale = scales[d / 32 * kPage + slot];
    if (d % 32 == 0) scale = scale_of(rest + d, std::min(32, H - d));
    keys[d * kPage + slot] = uint8_t(code_of(rest[d], from_bf16(scale)));
  }
}

void KvCache::write_value(int layer, int page, int head, int position, const float* value) const {
  const int H = shape.head_dim, groups = kv_groups(H), slot = position % kPage;
  uint8_t* values = at(layer, page, head) + kv_page_bytes(H, int8) / 2;
  if (!int8) {
    uint16_t* pairs = reinterpret_cast<uint16_t*>(values) + slot / 2 * 2 * H + slot % 2;
    for (int d = 0; d < H; d++) pairs[2 * d] = to_bf16(value[d]);
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
