// Int8 pages of keys and values, back in bf16 for the kernels that read them. Layout: kernels.h.
#pragma once

#include "../kernels.h"

namespace {

using namespace qwell;

// 16 codes as fma(code, scale, centre), rounded to bf16.
inline void unpack_codes(const uint8_t* codes, V::F scale, V::F centre, uint16_t* to) {
  V::store_bf16(to, V::fma(V::load_i8(codes), scale, centre));
}

// R(64 index) bias
inline void turn_bias(const KeyCentre& centre, int index, int head_dim, float* to) {
  const int half = head_dim / 2;
  const float *lo = centre.bias, *hi = lo + half, *cos = centre.pages + int64_t(index) * head_dim, *sin = cos + half;
  for (int d = 0; d < half; d++) {
    to[d] = lo[d] * cos[d] - hi[d] * sin[d];
    to[half + d] = hi[d] * cos[d] + lo[d] * sin[d];
  }
}

inline void unpack_keys(const uint8_t* codes, const uint16_t* scales, const KeyCentre& centre, int index, int head_dim,
                        uint16_t* to) {
  const int half = head_dim / 2;
  float turned[kMaxHeadDim];
  turn_bias(centre, index, head_dim, turned);
  for (int low = 0; low < half; low++)
    for (int i = 0; i < kPage; i += kLanes) {
      const int high = low + half;
      const V::F cos = V::load(centre.slots + low * kPage + i), sin = V::load(centre.slots + high * kPage + i);
      const V::F a = V::set1(turned[low]), b = V::set1(turned[high]);
      unpack_codes(codes + low * kPage + i, V::load_bf16(scales + low / 32 * kPage + i),
                   V::sub(V::mul(a, cos), V::mul(b, sin)), to + low * kPage + i);
      unpack_codes(codes + high * kPage + i, V::load_bf16(scales + high / 32 * kPage + i),
                   V::add(V::mul(b, cos), V::mul(a, sin)), to + high * kPage + i);
    }
}

inline void unpack_values(const uint8_t* codes, const uint16_t* scales, int head_dim, uint16_t* to) {
  const int groups = kv_groups(head_dim);
  for (int key = 0; key < kPage; key++)
    for (int d = 0; d < head_dim; d += kLanes) {
      const uint32_t bits = uint32_t(scales[key * groups + d / 32]) << 16;
      float scale;
      std::memcpy(&scale, &bits, 4);
      unpack_codes(codes + key * head_dim + d, V::set1(scale), V::set1(0.0f), to + key * head_dim + d);
    }
}

void unpack_kv(const uint8_t* page, const KeyCentre& centre, int index, int head_dim, uint16_t* to) {
  const int codes = head_dim * kPage, scales = kv_groups(head_dim) * kPage;
  const uint8_t* values = page + codes + 2 * scales;
  unpack_keys(page, reinterpret_cast<const uint16_t*>(page + codes), centre, index, head_dim, to);
  unpack_values(values, reinterpret_cast<const uint16_t*>(values + codes), head_dim, to + codes);
}

}  // namespace
