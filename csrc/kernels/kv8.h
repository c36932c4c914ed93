// Int8 pages of keys and values, back in bf16 for the kernels that read them. Layout: kernels.h.
#pragma once

#include "../kernels.h"

namespace {

using namespace qwell;

// R(64 index) bias
inline void turn_bias(const KeyCentre& centre, int index, int head_dim, float* to) {
  const int half = head_dim / 2;
  const float *lo = centre.bias, *hi = lo + half, *cos = centre.pages + int64_t(index) * head_dim, *sin = cos + half;
  for (int d = 0; d < half; d++) {
    to[d] = lo[d] * cos[d] - hi[d] * sin[d];
    to[half + d] = hi[d] * cos[d] + lo[d] * sin[d];
  }
}

// 16 keys in row d of the codes: fma(code, scale, centre), with the centre a * cos -+ b * sin - still.
struct KeyRow {
  const uint8_t* codes;
  const uint16_t* scales;
  const float* still;
  V::F at(int d, int i, V::F turned) const {
    const V::F centre = V::sub(turned, V::set1(still[d]));
    return V::fma(V::load_i8(codes + d * kPage + i), V::load_bf16(scales + d / 32 * kPage + i), centre);
  }
};

inline void unpack_keys(const uint8_t* codes, const uint16_t* scales, const KeyCentre& centre, int index, int head_dim,
                        uint16_t* to) {
  const int half = head_dim / 2;
  const KeyRow row{codes, scales, centre.still};
  float turned[kMaxHeadDim];
  turn_bias(centre, index, head_dim, turned);
  for (int low = 0; low < half; low += 2)
    for (int i = 0; i < kPage; i += kLanes) {
      V::F lo[2], hi[2];
      for (int d = low; d < low + 2; d++) {
        const V::F cos = V::load(centre.slots + d * kPage + i), sin = V::load(centre.slots + (d + half) * kPage + i);
        const V::F a = V::set1(turned[d]), b = V::set1(turned[d + half]);
        lo[d - low] = row.at(d, i, V::sub(V::mul(a, cos), V::mul(b, sin)));
        hi[d - low] = row.at(d + half, i, V::add(V::mul(b, cos), V::mul(a, sin)));
      }
      V::store_bf16_pairs(to + low * kPage + 2 * i, lo[0], lo[1]);
      V::store_bf16_pairs(to + (low + half) * kPage + 2 * i, hi[0], hi[1]);
    }
}

inline void unpack_values(const uint8_t* codes, const uint16_t* scales, int head_dim, uint16_t* to) {
  const int groups = kv_groups(head_dim);
  const auto values = [&](int key, int d) {
    const uint32_t bits = uint32_t(scales[key * groups + d / 32]) << 16;
    float scale;
    std::memcpy(&scale, &bits, 4);
    return V::fma(V::load_i8(codes + key * head_dim + d), V::set1(scale), V::set1(0.0f));
  };
  for (int key = 0; key < kPage; key += 2)
    for (int d = 0; d < head_dim; d += kLanes)
      V::store_bf16_pairs(to + key * head_dim + 2 * d, values(key, d), values(key + 1, d));
}

void unpack_kv(const uint8_t* page, const KeyCentre& centre, int index, int head_dim, uint16_t* to) {
  const int codes = head_dim * kPage, scales = kv_groups(head_dim) * kPage;
  const uint8_t* values = page + codes + 2 * scales;
  unpack_keys(page, reinterpret_cast<const uint16_t*>(page + codes), centre, index, head_dim, to);
  unpack_values(values, reinterpret_cast<const uint16_t*>(values + codes), head_dim, to + codes);
}

}  // namespace
