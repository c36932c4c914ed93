// One column of a packed matrix as floats: the embedding of one token. Plain code, the same on
// every machine; it also undoes the packing for tests.
#include <cstring>

#include "kernels.h"

namespace qwell {
namespace {

float from_half(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 1023;
  uint32_t bits;
  if (exponent == 0) {
    const float f = float(mantissa) * 0x1p-24f;
    return sign ? -f : f;
  }
  bits = exponent == 31 ? sign | 0x7f800000u | mantissa << 13 : sign | (exponent + 112) << 23 | mantissa << 13;
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}

float half_at(const uint8_t* p) {
  uint16_t h;
  std::memcpy(&h, p, 2);
  return from_half(h);
}

// The stored unsigned weight of input i (of 32) and column c of one 32-group at p.
template <Format F>
int stored(const uint8_t* p, int i, int column) {
  constexpr int bits = Traits<F>::bits;
  const int half = column / kLanes, row = i / 4, byte = 4 * (column % kLanes) + i % 4;
  if (bits == 8) return p[half * 512 + row * 64 + byte];
  const int line = p[half * 256 + (row % 4) * 64 + byte];
  int u = row < 4 ? line & 15 : line >> 4;
  if (bits == 5) u |= (p[Block<F>::high + half * 64 + byte] >> row & 1) << 4;
  if (bits == 6) u |= (p[Block<F>::high + half * 128 + (row / 4) * 64 + byte] >> 2 * (row % 4) & 3) << 4;
  return u;
}

template <Format F>
void gather_integer(const uint8_t* panel, int k, int column, float* out) {
  using L = Block<F>;
  using T = Traits<F>;
  for (int i = 0; i < k; i++) {
    const uint8_t* block = panel + int64_t(i / L::inputs) * L::bytes;
    const int inside = i % L::inputs, group = inside / T::group;
    float scale = half_at(block + L::scale + 2 * column), min = 0;
    if (T::kSuper) scale *= float(int8_t(block[L::sub_scale + group * kPanel + column]));
    const int u = stored<F>(block + L::codes + inside / kGroup * L::group_bytes, inside % kGroup, column);
    out[i] = scale * float(u - T::zero);
    if (T::mins) {
      min = half_at(block + L::min + 2 * column);
      if (T::kSuper) min *= float(int8_t(block[L::sub_min + group * kPanel + column]));
      out[i] -= min;
    }
  }
}

void gather_float(Format format, const uint8_t* panel, int k, int column, float* out) {
  for (int i = 0; i < k; i++) {
    const int64_t at = int64_t(i) * kPanel + column;
    uint32_t bits = 0;
    if (format == Format::F32) {
      std::memcpy(out + i, panel + 4 * at, 4);
    } else if (format == Format::F16) {
      out[i] = half_at(panel + 2 * at);
    } else {
      std::memcpy(&bits, panel + 4 * (int64_t(i / 2) * kPanel + column) + 2 * (i % 2), 2);
      bits <<= 16;
      std::memcpy(out + i, &bits, 4);
    }
  }
}

}  // namespace

void gather_column(Format format, const uint8_t* packed, int k, int64_t index, float* out) {
  const FormatInfo info = format_info(format);
  const uint8_t* panel = packed + index / kPanel * (int64_t(k) / info.block_inputs * info.block_bytes);
  const int column = int(index % kPanel);
  switch (format) {
    case Format::Q4_0: return gather_integer<Format::Q4_0>(panel, k, column, out);
    case Format::Q4_1: return gather_integer<Format::Q4_1>(panel, k, column, out);
    case Format::Q5_0: return gather_integer<Format::Q5_0>(panel, k, column, out);
    case Format::Q5_1: return gather_integer<Format::Q5_1>(panel, k, column, out);
    case Format::Q8_0: return gather_integer<Format::Q8_0>(panel, k, column, out);
    case Format::Q2_K: return gather_integer<Format::Q2_K>(panel, k, column, out);
    case Format::Q3_K: return gather_integer<Format::Q3_K>(panel, k, column, out);
    case Format::Q4_K: return gather_integer<Format::Q4_K>(panel, k, column, out);
    case Format::Q5_K: return gather_integer<Format::Q5_K>(panel, k, column, out);
    case Format::Q6_K: return gather_integer<Format::Q6_K>(panel, k, column, out);
    default: return gather_float(format, panel, k, column, out);
  }
}

}  // namespace qwell
