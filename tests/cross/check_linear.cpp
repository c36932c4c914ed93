// The linear family: every format, row counts of every path, weights that are any
// bytes with scales of every kind, hostile rows. What is wanted is scalar's answer to each row alone.
#include <algorithm>

#include "check.h"
#include "scratch.h"

namespace check {

using namespace qwell;

// Where a block keeps its f16 numbers.
struct Places {
  int bytes, scale, min;  // min: -1 if there is none
};
template <Format F>
static Places places() {
  return {Block<F>::bytes, Block<F>::scale, Traits<F>::mins ? Block<F>::min : -1};
}
static Places places_of(Format format) {
  switch (format) {
    case Format::Q4_0: return places<Format::Q4_0>();
    case Format::Q4_1: return places<Format::Q4_1>();
    case Format::Q5_0: return places<Format::Q5_0>();
    case Format::Q5_1: return places<Format::Q5_1>();
    case Format::Q8_0: return places<Format::Q8_0>();
    case Format::Q2_K: return places<Format::Q2_K>();
    case Format::Q3_K: return places<Format::Q3_K>();
    case Format::Q4_K: return places<Format::Q4_K>();
    case Format::Q5_K: return places<Format::Q5_K>();
    case Format::Q6_K: return places<Format::Q6_K>();
    default: return {};
  }
}

static uint16_t half(int kind, Random& random) {
  const uint16_t sign = uint16_t(random.next() & 0x8000);
  switch (kind) {
    case 0: return uint16_t(sign | (0x1400 + random.below(0xc00)));  // 2^-10 to 2^-7
    case 1: return sign | 0x7bff;                                    // the largest
    case 2: return uint16_t(sign | random.below(4));                 // zeros and the least denormals
    default: return uint16_t(random.next());                         // infinities and NaN among them
  }
}

static uint8_t byte(int kind, Random& random) {
  switch (kind) {
    case 0: return uint8_t(random.next());
    case 1: return 0xff;
    case 2: return 0;
    default: return random.next() & 1 ? 0xff : 0;
  }
}

static std::vector<uint8_t> integer_panel(Format format, int k, int kind, Random& random) {
  const FormatInfo info = format_info(format);
  std::vector<uint8_t> panel(size_t(k) / info.block_inputs * info.block_bytes);
  for (uint8_t& b : panel) b = byte(kind % 4, random);
  const Places at = places_of(format);
  for (uint8_t* block = panel.data(); block < panel.data() + panel.size(); block += at.bytes)
    for (int place : {at.scale, at.min})
      for (int column = 0; place >= 0 && column < kPanel; column++) {
        const uint16_t h = half(kind / 4 % 4, random);
        std::memcpy(block + place + 2 * column, &h, 2);
      }
  return panel;
}

static std::vector<uint8_t> float_panel(Format format, int k, int kind, Random& random) {
  const int width = format_info(format).block_bytes / kPanel;
  std::vector<uint8_t> panel(size_t(k) * kPanel * width);
  for (size_t i = 0; i < panel.size(); i += width) {
    uint32_t bits = uint32_t(random.next());  // any number at all
    const float ordinary = random.between(-2, 2);
    if (kind % 2 == 0 && format == Format::F16) bits = half(0, random);
    else if (kind % 2 == 0) std::memcpy(&bits, &ordinary, 4), bits >>= 8 * (4 - width);
    std::memcpy(panel.data() + i, &bits, width);
  }
  return panel;
}

// Rows in every form the kernels read, made by scalar.
struct Rows {
  Rows(int rows, int k, int kind, Random& random)
      : wide(std::max(k, kGroup)), memory(RowStore::bytes(rows, wide)), store(memory.data(), rows, wide) {
    for (int r = 0; r < rows; r++) {
      const std::vector<float> x = hostile_row(kind + r, wide, random);
      std::copy(x.begin(), x.end(), store.rows[r].f32);
      kScalarKernels.quantize(x.data(), wide, store.rows[r]);
    }
  }
  const Row* data() const { return store.rows.data(); }

 private:
  int wide;
  std::vector<uint8_t> memory;
  RowStore store;
};

static void check_shape(const Kernels& kernels, Format format, int rows, int k, int kind, Random& random,
                        Tally& tally) {
  const bool integer = format_info(format).integer;
  const std::vector<uint8_t> panel =
      integer ? integer_panel(format, k, kind, random) : float_panel(format, k, kind, random);
  const Rows x(rows, k, kind, random);
  std::vector<uint8_t> scratch(linear_scratch_bytes(k));
  std::vector<float> want(size_t(rows) * kPanel), got(want.size());
  for (int r = 0; r < rows; r++)
    kScalarKernels.linear[int(format)](panel.data(), k, x.data() + r, 1, want.data() + r * kPanel, kPanel,
                                       scratch.data());
  kernels.linear[int(format)](panel.data(), k, x.data(), rows, got.data(), kPanel, scratch.data());
  tally.compare(got, want);
}

Tally check_linear(const Kernels& kernels) {
  Tally tally;
  Random random(1);
  for (int f = 0; f < kNumFormats; f++) {
    const FormatInfo info = format_info(Format(f));
    int kind = 0;
    for (int rows : {1, 2, 3, 4, 5, 6, 7, 8, 9, 17})
      for (int blocks : {1, 2, 3, 9, 15, 29})
        for (int turn = 0; turn < 2 && blocks * info.block_inputs <= 928; turn++)
          check_shape(kernels, Format(f), rows, blocks * (info.integer ? info.block_inputs : 2), kind++, random, tally);
  }
  return tally;
}

}  // namespace check
