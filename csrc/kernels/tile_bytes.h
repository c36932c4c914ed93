// The linear family of five and more rows over T's tiles of bytes: the integer formula of kernels.h,
// bit for bit, for T's int8 dot is exact.
//
// One half of a panel, 16 columns, meets sixteen rows at a time; their sums stay in registers while
// k passes. A step is two groups of inputs. Its weights become signed bytes (u - zero) in one B
// operand a group, the other group's place filled with zeros, so that one A tile, sixteen rows as
// they lie in memory, serves both. The TMUL works beside the lanes: between the dots of one step
// stand the unpacking of the next and the float arithmetic on the dots of the one before. T is
// amx.h or tiles_emulated.h; nothing here knows which.
#pragma once

#include <algorithm>
#include <utility>

#include "linear.h"

namespace {

using namespace qwell;

// Tiles hold sixteen rows; M of them become sums, 8 or 16.
template <Format F, int M>
struct ByteTiles {
  using W = Packed<F>;
  static constexpr bool kWhole = W::group == kGroup;                         // a group is 32 inputs, not 16
  static constexpr int kInputs = 2 * W::group;                               // of a step
  static constexpr int kDots = 2;                                            // of a step: one a group
  static constexpr int kRun = W::group * kLanes;                             // bytes of a group
  static constexpr int kOdd = kTileBytes - kRun;                             // where the second group's operand begins
  static constexpr int kStepBytes = kOdd + kTileBytes;                       // group 0, zeros, group 1, zeros
  static constexpr int kSums = kDots * kTileBytes;                           // int32 [group][16 rows][16 columns]
  static_assert(2 * kSums <= 8 * kTileBytes && kStepBytes <= 56 * kInputs);  // linear_scratch_bytes

  using Dots = std::make_integer_sequence<int, kDots>;

  // One half of a panel against one tile of rows.
  struct Pass {
    W w;
    int k, half;
    const int8_t* q;         // of the first row
    int64_t apart;           // bytes from row to row
    const float* scale[16];  // of each row
    const float* scaled_sum[16];
    const int32_t* total[16];
    uint8_t *b, *c;  // operands of the steps, sums of two steps
    int ring;        // step & ring is the place of its operands
    bool unpacks;    // or the operands are there already
    float* out;
    int64_t stride;
    int rows;
  };

  static void run(const uint8_t* panel, int k, const Row* x, int rows, float* tile, int64_t stride, uint8_t* scratch) {
    const int steps = (k + kInputs - 1) / kInputs;
    Pass p{};
    p.w = W{panel}, p.k = k, p.stride = stride, p.apart = x[1].q - x[0].q;
    p.c = scratch, p.b = scratch + 2 * kSums, p.ring = rows > 16 ? -1 : 1;
    // Zeros beside the groups: both halves leave them alone.
    for (int64_t i = 0; i < (rows > 16 ? steps : 2) * kStepBytes; i += 64) V::storeb(p.b + i, V::zerob());
    for (p.half = 0; p.half < 2; p.half++)
      for (int row = 0; row < rows; row += 16) {
        p.q = x[row].q, p.rows = std::min(16, rows - row), p.unpacks = row == 0;
        p.out = tile + row * stride + p.half * kLanes;
        for (int r = 0; r < 16; r++) {  // behind the last row: any, nobody reads them
          const Row& from = x[std::min(row + r, rows - 1)];
          p.scale[r] = from.scale, p.scaled_sum[r] = from.scaled_sum, p.total[r] = from.sum;
        }
        if (p.unpacks) pass<true>(p, steps);
        else pass<false>(p, steps);
      }
    for (int r = 0; r < rows; r++)
      if (x[r].loud[0]) add_rests(p.w.still(), x[r], tile + r * stride);
  }

  template <bool unpacking>
  [[gnu::noinline]] static void pass(const Pass& pass, int steps) {
    const Pass p = pass;
    V::F sum[M];
    QWELL_UNROLL
    for (int r = 0; r < M; r++) sum[r] = V::set1(0.0f);
    if constexpr (unpacking) unpack<0>(p, 0), unpack<1>(p, 0);
    each<false, unpacking>(p, 0, sum, Dots());
    for (int step = 1; step < steps; step++) each<true, unpacking>(p, step, sum, Dots());
    last(p, steps, sum);
    QWELL_UNROLL
    for (int r = 0; r < M; r++)
      if (r < p.rows) V::store(p.out + r * p.stride, sum[r]);
  }

  // The dots of a step, between them the sums of the step before and the weights of the next.
  template <bool summing, bool unpacking, int... i>
  QWELL_INLINE static void each(const Pass& p, int step, V::F* sum, std::integer_sequence<int, i...>) {
    T::template load<4>(p.q + int64_t(step) * kInputs, p.apart);
    (between<summing, unpacking, i>(p, step, sum), ...);
  }
  template <bool summing, bool unpacking, int i>
  QWELL_INLINE static void between(const Pass& p, int step, V::F* sum) {
    constexpr int weights = 6 + i;
    const uint8_t* b = p.b + int64_t(step & p.ring) * kStepBytes;
    uint8_t *sums = p.c + (step & 1) * kSums, *before = p.c + (~step & 1) * kSums;
    T::template zero<i>();
    T::template load<weights>(b + i * kOdd, 64);
    T::template dot_bytes<i, 4, weights>();
    if constexpr (i > 0) T::template store<i - 1>(sums + (i - 1) * kTileBytes, 64);
    if constexpr (unpacking) unpack<i>(p, step + 1);
    if constexpr (summing) add<i>(p, step - 1, before, sum);
    if constexpr (i == kDots - 1) T::template store<i>(sums + i * kTileBytes, 64);
  }
  QWELL_INLINE static void last(const Pass& p, int steps, V::F* sum) {
    const uint8_t* sums = p.c + (~steps & 1) * kSums;
    add<0>(p, steps - 1, sums, sum);
    if (!kWhole || 2 * steps - 1 < p.k / kGroup) add<1>(p, steps - 1, sums, sum);
  }

  // A group's weights of the half into its B operand; none behind the last.
  template <int group>
  QWELL_INLINE static void unpack(const Pass& p, int step) {
    const int g = group32(step, group);
    if (g >= p.k / kGroup) return;
    const Rows8 lines = p.w.rows(g, p.half);
    uint8_t* to = p.b + int64_t(step & p.ring) * kStepBytes + group * kTileBytes;
    constexpr int first = kWhole ? 0 : 4 * group;
    QWELL_UNROLL
    for (int i = 0; i < W::group / 4; i++) V::storeb(to + 64 * i, V::subb(lines.row[first + i], W::zero));
  }
  static int group32(int step, int group) { return kWhole ? 2 * step + group : step; }

  // A group's dots onto the sums of the rows.
  template <int group>
  QWELL_INLINE static void add(const Pass& p, int step, const uint8_t* sums, V::F* sum) {
    constexpr int sub = kWhole ? 0 : group;
    const int g = group32(step, group);
    const V::F w = p.w.scale(g, sub, p.half);
    V::F min;
    if constexpr (W::mins) min = V::neg(p.w.min(g, sub, p.half));
    QWELL_UNROLL
    for (int r = 0; r < M; r++) {
      const V::I dot = V::loadi(reinterpret_cast<const int32_t*>(sums + group * kTileBytes + 64 * r));
      const float x = p.scale[r][g];
      sum[r] = V::fma(V::to_float(dot), V::mul(w, V::set1(x)), sum[r]);
      if constexpr (W::mins)
        sum[r] =
            V::fma(min, V::set1(kWhole ? p.scaled_sum[r][g] : float(group_sum<W>(p.total[r], g, sub)) * x), sum[r]);
    }
  }
};

template <Format F>
void linear_bytes(const uint8_t* panel, int k, const Row* x, int rows, float* tile, int64_t stride, uint8_t* scratch) {
  if (rows <= 4) return linear_integer<F>(panel, k, x, rows, tile, stride, scratch);
  if (rows <= 8) return ByteTiles<F, 8>::run(panel, k, x, rows, tile, stride, scratch);
  ByteTiles<F, 16>::run(panel, k, x, rows, tile, stride, scratch);
}

}  // namespace
