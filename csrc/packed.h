// How a matrix lies in memory: panels of 32 columns, streamed once from front to back.
//
// A matrix [n, k] (n outputs, k inputs) is cut into panels of 32 outputs; the last panel is filled
// with zero weights. Inside a panel the blocks follow each other along k. The numbers are those of
// the source file: group scales and minima are kept as they were, nothing is quantised again.
//
// Integer formats, one block (32 or 256 of k), all little-endian, every part 64-byte aligned:
//
//   scale          f16[32]                one per column
//   min            f16[32]                formats with minima
//   sub-scales     i8[groups][32]         256-blocks: weight scale = scale * sub-scale
//   sub-minima     i8[groups][32]         256-blocks with minima
//   for each 32 of k:
//     4-bit part   half 0: 4 lines of 64 bytes, half 1: 4 lines    (a half is 16 columns)
//     1 or 2 more bits per weight: half 0, half 1                  (5 and 6-bit formats)
//
// A line holds 16 columns x 4 of k, the operand of one 4-way dot product: byte 4c + j of line i is
// column c, in the low nibble k = 4i + j, in the high nibble k = 16 + 4i + j. "Row r" below means
// the 64 bytes with k = 4r .. 4r + 3, r < 8. The fifth bit of row r is bit r of the byte in its own
// line; bits five and six of row r are bits 2(r % 4) and up of line r / 4. 8-bit formats store the
// eight rows as they are.
//
// Float formats: [k][32], k ascending; BF16 in pairs, [k / 2][32][2].
#pragma once

#include <cstddef>
#include <cstdint>

namespace qwell {

inline constexpr int kPanel = 32;   // columns of a panel
inline constexpr int kLanes = 16;   // columns of a half: the vector of every kernel
inline constexpr int kGroup = 32;   // inputs that share one activation scale
inline constexpr int kPage = 64;    // tokens of a KV page, keys of an attention block
inline constexpr int kPart = 1024;  // keys of attention that are summed up together
inline constexpr int kMaxHeadDim = 256;

enum class Format : int { F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K };
inline constexpr int kNumFormats = 13;

// What tells the integer formats apart. The stored unsigned weight u means
//   scale * (u - zero)                 without minima
//   scale * u - min                    with minima (zero is 0 then)
template <Format F>
struct Traits;
struct PerGroup {
  static constexpr int kBlock = 32;
  static constexpr bool kSuper = false;
};
struct PerSuper {
  static constexpr int kBlock = 256;
  static constexpr bool kSuper = true;
};
template <>
struct Traits<Format::Q4_0> : PerGroup {
  enum { bits = 4, zero = 8, group = 32, mins = 0 };
};
template <>
struct Traits<Format::Q4_1> : PerGroup {
  enum { bits = 4, zero = 0, group = 32, mins = 1 };
};
template <>
struct Traits<Format::Q5_0> : PerGroup {
  enum { bits = 5, zero = 16, group = 32, mins = 0 };
};
template <>
struct Traits<Format::Q5_1> : PerGroup {
  enum { bits = 5, zero = 0, group = 32, mins = 1 };
};
template <>
struct Traits<Format::Q8_0> : PerGroup {
  enum { bits = 8, zero = 128, group = 32, mins = 0 };
};
template <>
struct Traits<Format::Q2_K> : PerSuper {
  enum { bits = 4, zero = 0, group = 16, mins = 1 };
};
template <>
struct Traits<Format::Q3_K> : PerSuper {
  enum { bits = 4, zero = 4, group = 16, mins = 0 };
};
template <>
struct Traits<Format::Q4_K> : PerSuper {
  enum { bits = 4, zero = 0, group = 32, mins = 1 };
};
template <>
struct Traits<Format::Q5_K> : PerSuper {
  enum { bits = 5, zero = 0, group = 32, mins = 1 };
};
template <>
struct Traits<Format::Q6_K> : PerSuper {
  enum { bits = 6, zero = 32, group = 16, mins = 0 };
};

// Byte offsets inside one block of format F.
template <Format F>
struct Block {
  using T = Traits<F>;
  static constexpr int inputs = T::kBlock;
  static constexpr int group_bytes = kPanel * kGroup * T::bits / 8;  // weights of 32 inputs
  static constexpr int high = kPanel * kGroup / 2;                   // after the 4-bit part of these
  static constexpr int scale = 0;
  static constexpr int min = scale + 2 * kPanel;
  static constexpr int sub_scale = min + (T::mins ? 2 * kPanel : 0);
  static constexpr int groups = inputs / T::group;
  static constexpr int sub_min = sub_scale + (T::kSuper ? groups * kPanel : 0);
  static constexpr int codes = sub_min + (T::kSuper && T::mins ? groups * kPanel : 0);
  static constexpr int bytes = codes + group_bytes * (inputs / kGroup);
};
static_assert(Block<Format::Q4_0>::bytes == 576);   // 4.50 bits a weight, as in the file
static_assert(Block<Format::Q4_1>::bytes == 640);   // 5.00
static_assert(Block<Format::Q5_0>::bytes == 704);   // 5.50
static_assert(Block<Format::Q5_1>::bytes == 768);   // 6.00
static_assert(Block<Format::Q8_0>::bytes == 1088);  // 8.50
static_assert(Block<Format::Q2_K>::bytes == 5248);  // 5.13, the file's 2.63: rare, kept exact
static_assert(Block<Format::Q3_K>::bytes == 4672);  // 4.56, the file's 3.44: rare, kept exact
static_assert(Block<Format::Q4_K>::bytes == 4736);  // 4.63, the file's 4.50
static_assert(Block<Format::Q5_K>::bytes == 5760);  // 5.63, the file's 5.50
static_assert(Block<Format::Q6_K>::bytes == 6720);  // 6.56, as in the file

struct FormatInfo {
  int block_inputs;
  int block_bytes;
  bool integer;
};
FormatInfo format_info(Format format);

}  // namespace qwell
