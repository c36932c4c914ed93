// Pairs of bf16 by VDPBF16PS, which does what pairs_plain.h says.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace {

struct Pairs {
  static V::F dot(V::F sum, V::B w, const uint16_t* x) {
    int32_t both;
    std::memcpy(&both, x, 4);
    return _mm512_dpbf16_ps(sum, (__m512bh)w, (__m512bh)_mm512_set1_epi32(both));
  }
};

}  // namespace
