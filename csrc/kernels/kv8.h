// Int8 pages of keys and values, back in bf16 for the kernels that read them. Layout: kernels.h.
#pragma once

#include "../kernels.h"

namespace {

using namespace qwell;

// The first 16 codes at `codes` times `scale`, rounded to bf16.
inline void unpack_codes(const uint8_t* codes, V::F scale, uint16_t* to) {
  V::store_bf16(to, V::mul(V::load_i8(codes), scale));
}

inline void unpack_keys(const uint8_t* codes, const uint16_t* scales, int head_dim, uint16_t* to) {
  for (int d = 0; d < head_dim; d++)
    for (int i = 0; i < kPage; i += kLanes)
      unpack_codes(codes + d * kPage + i, V::load_bf16(scales + d / 32 * kPage + i), to + d * kPage + i);
}

inline void unpack_values(const uint8_t* codes, const uint16_t* scales, int head_dim, uint16_t* to) {
  const int groups = kv_groups(head_dim);
  for (int key = 0; key < kPage; key++)
    for (int d = 0; d < head_dim; d += kLanes) {
      const uint32_t bits = uint32_t(scales[key * groups + d / 32]) << 16;
      float scale;
      std::memcpy(&scale, &bits, 4);
      unpack_codes(codes + key * head_dim + d, V::set1(scale), to + key * head_dim + d);
    }
}

void unpack_kv(const uint8_t* page, int head_dim, uint16_t* to) {
  const int codes = head_dim * kPage, scales = kv_groups(head_dim) * kPage;
  const uint8_t* values = page + codes + 2 * scales;
  unpack_keys(page, reinterpret_cast<const uint16_t*>(page + codes), head_dim, to);
  unpack_values(values, reinterpret_cast<const uint16_t*>(values + codes), head_dim, to + codes);
}

}  // namespace
