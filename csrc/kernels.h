// The contract of every kernel family: formulas with their order of operations.
//
// A formula fixes each result bit for bit; scalar, AVX2, AVX-VNNI, AVX-512 and NEON lanes run the same
// formula, so their results are equal, and so are results with one thread or many, one row or sixty-four.
// `fma` is one rounding, `a + b` and `a * b` one each, never contracted. Sixteen-lane sums s[0..15]
// fold as s[i] + s[i+8], then +4, +2, +1.
//
// linear, integer formats. Activations of a row are quantised per 32 inputs:
//     amax = max |x|, scale = amax / 127, q = round_to_even(x * (127 / amax))
//   amax up to 1e-30 gives scale 0 and q 0; an x that is not finite gives scale NaN. A group is loud
//   if (amax * amax) * groups > 4 * energy, energy = fma(amax, amax, energy) over the row's groups
//   ascending, those that are not finite left out: there 8 bits would be most of the row's error, so
//   15 are kept: fine = round_to_even(x * (16256 / amax)), q = round_to_even(fine / 128),
//   rest = fine - 128 * q, both int8. With g running over the weight's groups in ascending order, u the
//   stored weight, w its scale, m its minimum:
//     dot = sum (u - zero) * q           exact in int32: |dot| <= 32 * 255 * 127 < 2^20
//     acc = fma(float(dot), w * scale, acc)
//     acc = fma(-m, float(sum q) * scale, acc)      formats with minima
//   then once more over the loud groups ascending, of rest with scale / 128.
// linear, float formats: even = fma(w[k], x[k], even) over even k ascending, odd likewise;
//   result = even + odd.
// rows: rms_norm: s[l] = fma(x, x, s[l]) over x[16 i + l]; r = 1 / sqrt(sum / n + eps);
//     y = (x * r) * weight.
//   rope: (a, b) -> (fma(a, cos, -(b * sin)), fma(b, cos, a * sin)).
//   silu_mul: (gate / (1 + exp(-gate))) * up.
// attention, per query, blocks of 64 keys at absolute positions in ascending order:
//     s[key] = fma(q[d], k[d], s[key]) over d ascending, then * 1/sqrt(H)
//     new = max(top, s of the block); c = exp(top - new); p = exp(s - new)
//     sum = fma(sum, c, lane sum of p); o[d] = o[d] * c, then fma(p[key], v[key][d], o[d]) ascending
//   Every part of 1,024 keys is computed for itself, then the parts are merged in ascending order:
//     new = max(top, part's top); a = exp(top - new); b = exp(part's top - new)
//     sum = fma(sum, a, part's sum * b); o[d] = fma(o[d], a, part's o[d] * b)
//   result o[d] / sum. Keys and values are bf16: k = bf16(key - still), v = bf16(value).
// still [H], of each kv head: keys of Qwen2.5 are small changes of a large bias, whose large channels lie where RoPE
//   hardly turns them: still is the bias there, and else 0 (model/weights.py). In bf16 a key with it would be off by as
//   much as tokens tell apart. Without it all scores of a query are smaller by the same q . still, which softmax does
//   not see.
// int8 pages: one scale for each 32 of d. Values are bf16(float(code) * scale). Of keys, what differs from the turned
//   bias is coded: k in slot j of page p is bf16(fma(float(code), scale, centre)), centre = R(j) R(64 p) bias - still,
//   with R(n) the rotation that rope gives position n: lo' = lo * cos - hi * sin, hi' = hi * cos + lo * sin.
// exp: n = round_to_even(x * log2(e)); r = fma(n, -ln2_lo, fma(n, -ln2_hi, x)); polynomial of
//   degree 6 in Horner form by fma; times 2^n. Arguments below -87 give 0, above 88 are clamped.
// sampling, rows of float32 logits in blocks of 128. A weight is a whole number of units, 2^30 units
//   for the most likely token, so that sums are exact in any order; below 2^-31 of it a weight is 0,
//   which is less than a ten-thousandth of the probability in all:
//     y = max((x - top) * scale, -32), scale = float(log2(e) / temperature); n = round_to_even(y)
//     weight = round_to_even(p(y - n) * 2^(n + 30)), p of degree 5 near 2^f, Horner by fma
//   sum_exp: sixteen-lane sums of exp(x - top) over each block, added in double in their order.
// What is not finite stays so: a score that is not finite makes the sum of its query NaN.
//
// Where the CPU multiplies tiles, prompt rows (in attention all rows) use a second formula, here called
// tiled. A tile product ("dot") takes bf16 a, b and float c over 32 of k:
//     even = fma(a[k], b[k], even) over the 16 even k ascending from 0, odd likewise;
//     c = c + (even + odd); inputs and results below 2^-126 count as zero.
//   bf16(x) rounds to nearest even; x below 2^-126 gives zero; NaN stays NaN.
// tiled linear, integer formats and BF16: acc from 0, one dot for each 32 of k ascending, k filled
//   with zeros to a multiple of 32, of bf16(x) and bf16(w),
//     w = fma(float(u), weight scale, -offset), offset = minimum, or weight scale * zero (exact).
// tiled attention, of both roles, per query, blocks of 64 keys in parts of 1,024 as above: s[key] from
//   0, one dot for each 32 of d (filled with zeros) of bf16(q * F) and k, F = float(log2(e)) / sqrt(H); a
//   q with a number that is not finite is NaN throughout. Tops are whole numbers and what rescales a
//   power of two, hence exact:
//     new = max(top, ceil(max of s)), c = 2^(top - new); in the first block of a part
//       new = ceil(max of s), and l and o start from 0
//     y = s - new; f = y - floor(y), rounded down; p = poly(f) * 2^floor(y), rounded once, poly of
//       degree 3 in Horner form by fma (tile_exp2); keys that are not seen have p = 0
//     l[i] = l[i] * c, then l[i] + bf16(p[16 j + i]), j ascending; sum = the fold of l at the end of the part
//     o[d] = o[d] * c, then one dot for keys 0..31 and one for keys 32..63 of bf16(p) and v.
//   The first part's results are taken as they are; the others are merged as above, a and b like c.
//   A score that is NaN or +infinity makes the query NaN; one of -infinity weighs nothing.
// The head and F32 or F16 matrices know no tiled form: their prompt rows use the formulas above.
// Where the CPU has no tiles but multiplies pairs of bf16 (AVX512_BF16), prompt rows of BF16 matrices and
// attention of all rows use the tiled formula with another dot, here called paired: for even k ascending
//     c = fma(a[k + 1], b[k + 1], c), then fma(a[k], b[k], c); small numbers as above (of
//     a result: below 2^-126 once it is rounded as if its exponent had no end).
// Reply rows are not rounded, so what a policy said of its own tokens can be compared with training.
#pragma once

#include <algorithm>
#include <cstdint>

#include "packed.h"

namespace qwell {

// One row as the linear kernels read it: f32 or bf16 with float formats, the others with integer ones. The
// rows of one call lie at equal distances. Tiles hold 16 rows and 64 inputs: more than 4 rows are
// read, and what is there ignored, up to row_slack bytes behind q of the last.
struct Row {
  float* f32;         // [k]
  uint16_t* bf16;     // [k], of prompt rows where BF16 matrices are paired
  int8_t* q;          // [k]
  float* scale;       // [k / 32]
  int32_t* sum;       // [k / 16], sums of q
  float* scaled_sum;  // [k / 32], scale * sum over the group, for minima; not of rests, nor of groups of 16
  int32_t* loud;      // [1 + k / 32]: how many groups are loud, then which, ascending
  // Of the loud groups, one behind the other:
  int8_t* rest;       // [32 * loud]
  float* rest_scale;  // [loud], scale / 128
  int32_t* rest_sum;  // [2 * loud]
};
inline constexpr float kLoud = 4;

inline int64_t row_slack(int64_t apart) { return 15 * apart + 64; }  // apart: bytes between rows

constexpr int kBlock = 128;    // logits a maximum and a sum stand for
constexpr int kUnitBits = 30;  // a weight of 1 in units: 2^30

// What int8 keys leave out of the bias of k_proj; see above.
struct KeyCentre {
  const float* bias;   // [H], of one layer and kv head
  const float* still;  // [H]
  const float* pages;  // [p][H / 2] cos, then sin of R(64 p), H floats a page
  const float* slots;  // cos [H / 2][64] of R(j), then sin
};

// What one attention item reads and writes: `rows` query rows of one sequence and one kv head.
struct AttentionItem {
  const float* q;               // first query row, first query head of the group
  float* out;                   // same place in the output
  int64_t stride;               // floats between rows of q and of out
  const uint8_t* const* pages;  // of this kv head, as kv_page_bytes draws them
  int rows, group, head_dim;
  int first_position;  // of the first row; row r sees keys 0 .. first_position + r
  bool int8;           // pages
  float* scratch;      // [rows + 1][group][partial_floats(head_dim)]
  KeyCentre centre;    // int8
  uint16_t* unpacked;  // int8: room for the pages of one part in bf16
};
inline int partial_floats(int head_dim) { return head_dim + kLanes; }

// A page of one kv head in bf16, in the pairs of a tile's right operand: keys [H / 2][64 keys][2 of d],
// values [64 / 2][H][2 keys]. In int8: codes of keys [H][64], their scales [G][64] in bf16, codes of
// values [64][H], their scales [64][G], for G groups of up to 32 of d.
inline int kv_groups(int head_dim) { return (head_dim + 31) / 32; }
inline int64_t kv_page_bytes(int head_dim, bool int8) {
  return int64_t(2) * kPage * (int8 ? head_dim + 2 * kv_groups(head_dim) : 2 * head_dim);
}

// How tiles walk the k inputs of a matrix: steps of 32, in chunks of equal length but for the last.
// A chunk of a panel in bf16 (28 KB at most) stays in the first-level cache while all rows pass.
struct TileChunks {
  static constexpr int kMost = 14;  // steps of a chunk
  explicit TileChunks(int k) : total((k + 31) / 32) {
    count = (total + kMost - 1) / kMost, length = (total + count - 1) / count;
  }
  int steps(int chunk) const { return chunk + 1 < count ? length : total - chunk * length; }
  int total, count, length;  // steps; chunks; steps of a chunk
};

// Work that has nothing to do with a pass and costs nothing beside it: `count` calls of `piece`, spread
// over the pass, which makes all of them.
struct Meanwhile {
  void (*piece)(void* context) = nullptr;
  void* context = nullptr;
  int64_t count = 0;
};

// Panels of one matrix against the prompt rows of a phase, on one thread. A ("the left operand")
// holds the packed rows: [chunk][block of 32 rows][step][2 tiles of 16 rows x 32 inputs], bf16. Rows
// of a tile never mix, so rows behind the last may hold anything. All of it 64-byte aligned.
struct TilePass {
  const uint8_t* panels;
  int64_t panel_bytes;
  int count;            // panels, one behind the other
  const uint8_t* next;  // the panel of the next pass over the same format, or null
  int k;                // of the matrix; it may end before the chunks do
  TileChunks chunks;    // of A
  const uint8_t* a;
  int rows;
  float* c;          // results: [panel][block][4 tiles: rows 0..15, columns 0..15 and 16..31; rows 16..31]
  uint8_t* scratch;  // TileScratch::kLinearBytes of this thread, zeroed once
  Meanwhile meanwhile;
};

inline constexpr int kTileRows = 32;   // rows of a block of A
inline constexpr int kWindow = kPage;  // positions of a tiled attention item: its rows end in one page
inline constexpr int kTileBytes = 1024;
inline int tile_blocks(int rows) { return (rows + kTileRows - 1) / kTileRows; }
// Bytes of A, and floats of c for one panel.
inline int64_t tile_input_bytes(int rows, int k) {
  return int64_t(tile_blocks(rows)) * ((k + 31) / 32) * 2 * kTileBytes;
}
inline int64_t tile_floats(int rows) { return int64_t(tile_blocks(rows)) * kTileRows * kPanel; }
// Rows [row, row + count) of `rows` of a pass's results as plain rows: y = (c + bias) + add, each or
// neither of the two. Strides in floats.
struct TileResult {
  const float* c;
  int rows, row, count, columns;
  const float* bias;
  const float* add;
  int64_t add_stride;
  float* y;
  int64_t stride;
};
// Where rows [row, row + count) of silu(gate) * up go: two results of a pass over one panel become 32
// inputs of a later A. `a` is that step of block 0, block_bytes lie between its blocks.
struct TileSilu {
  const float *gate, *up;
  uint8_t* a;
  int64_t block_bytes;
  int row, count;
};
// Step `step` of block 0 in an A of `rows` rows, and how far its blocks are apart.
struct TileStep {
  TileStep(const TileChunks& chunks, int rows, int step) {
    const int chunk = step / chunks.length, first = chunk * chunks.length;
    block_bytes = int64_t(chunks.steps(chunk)) * 2 * kTileBytes;
    at = (int64_t(first) * tile_blocks(rows) + step - first) * 2 * kTileBytes;
  }
  int64_t at, block_bytes;
};

// Tiled attention: rows of one window of kWindow absolute positions; scratch holds TileScratch::bytes. Or one part
// of the item's first row into `to`, for `merge` to put `count` of them together.
struct TiledAttention {
  void (*whole)(const AttentionItem&, uint8_t* scratch);
  void (*part)(const AttentionItem&, int part, uint8_t* scratch, float* to);
  void (*merge)(const AttentionItem&, float* parts, int count);
};

// Prompt rows over tiles.
struct TileKernels {
  void (*begin)();  // on every thread before its first tile of a step
  void (*end)();    // and after its last
  // Rows [row, row + count) of `rows`, all in one tile, into A; x has them `stride` floats apart.
  void (*pack)(const float* x, int64_t stride, int k, int row, int count, int rows, uint8_t* a);
  using LinearFn = void (*)(const TilePass&);
  LinearFn linear[kNumFormats];  // null where the format has no tiled form
  void (*result)(const TileResult&);
  void (*silu)(const TileSilu&);
  TiledAttention attention;
  // Kernels::linear over tiles of bytes, the same bits; null: as without tiles.
  using BytesFn = void (*)(const uint8_t* panel, int k, const Row* rows, int num_rows, float* tile, int64_t stride,
                           uint8_t* scratch);
  BytesFn bytes[kNumFormats];
};

struct Kernels {
  const char* name;
  // tile[row * stride + column] for one panel of 32 columns. Row counts up to 4 read the packed
  // panel once; more rows read it in chunks, unpacked into `scratch` (linear_scratch_bytes(k), 64-byte
  // aligned).
  using LinearFn = void (*)(const uint8_t* panel, int k, const Row* rows, int num_rows, float* tile, int64_t stride,
                            uint8_t* scratch);
  LinearFn linear[kNumFormats];
  void (*quantize)(const float* x, int k, const Row& to);
  void (*rms_norm)(const float* x, const float* weight, int n, int padded, float eps, float* y);
  void (*rope)(float* head, int head_dim, const float* cos, const float* sin);
  void (*silu_mul)(const float* gate, const float* up, int n, float* y);
  void (*add)(const float* a, const float* b, int n, float* y);
  // All parts of all rows; or one part of the item's first row into `to`, for attention_merge to
  // put `count` of them together.
  void (*attention)(const AttentionItem&);
  void (*attention_part)(const AttentionItem&, int part, float* to);
  void (*attention_merge)(const AttentionItem&, const float* parts, int count);
  // Int8 page `index` of a sequence as a bf16 page.
  void (*unpack_kv)(const uint8_t* page, const KeyCentre&, int index, int head_dim, uint16_t* to);
  // Copies blocks of logits and their maxima, -infinity where the bit of `allow` (if there is one)
  // is 0. False if a logit, allowed or not, is NaN or +infinity. The copy may be x itself.
  bool (*take)(const float* x, const uint32_t* allow, int blocks, float* copy, float* maxima);
  // Logits become weights (int32) in place, with the sum of each block. A block whose weights are all 0
  // gets the sum 0 and keeps its logits.
  void (*weigh)(float* x, const float* maxima, int blocks, float top, float scale, uint64_t* sums);
  // Sums again, of the weights that are `least` or more; a block with sum 0 is not looked at.
  void (*sum_from)(const int32_t* weights, int blocks, int32_t least, uint64_t* sums);
  double (*sum_exp)(const float* x, int blocks, float top);
  // Where they are null, prompt rows are computed like reply rows and attention is the one above.
  const TileKernels* tiles = nullptr;
  const TiledAttention* tiled_attention = nullptr;
  LinearFn paired = nullptr;                                     // `linear` for prompt rows of BF16 matrices, and
  void (*round)(const float* x, int k, uint16_t* to) = nullptr;  // a row to bf16 for it
};

// Groups of 32 inputs that are unpacked together: with their packed bytes and some rows they stay in the
// first-level cache (LOG.md, 2026-11-26, fourth stretch).
inline constexpr int kChunkGroups = 14;
// What the linear kernels want for more than four rows: a chunk's bytes, then its scales and minima per 16
// inputs; or the sums of two steps over tiles of bytes, then the operands of half a panel.
inline int64_t linear_scratch_bytes(int k) {
  constexpr int64_t floats = 2 * (kGroup / kLanes) * kPanel;  // of a group
  constexpr int64_t chunk = kChunkGroups * (kGroup * kPanel + floats * int64_t(sizeof(float)));
  return std::max(chunk, 8 * kTileBytes + int64_t(k + 64) * 56);
}

// What a CPU with pairs adds.
struct PairKernels {
  Kernels::LinearFn linear;
  void (*round)(const float* x, int k, uint16_t* to);
  TiledAttention attention;
};

extern const Kernels kScalarKernels;
#if defined(__x86_64__)
extern const Kernels kAvx2Kernels;
extern const Kernels kAvxVnniKernels;
extern const Kernels kAvx512Kernels;
extern const TileKernels kAmxTiles;             // the instructions: AMX_BF16 over AVX-512 with BF16
extern const PairKernels kPairs;                // AVX-512 with BF16
extern const TileKernels kEmulatedAvx512Tiles;  // their emulation over the same lanes, for tests
#elif defined(__aarch64__)
extern const Kernels kNeonKernels;
extern const Kernels kDotprodKernels;  // with the dot product instructions
#endif
extern const TileKernels kEmulatedScalarTiles;
extern const PairKernels kEmulatedPairs;

// The best kernels this CPU runs, or those QWELL_FORCE_ISA names. Throws std::invalid_argument for
// a name that is unknown or that the CPU lacks.
const Kernels& select_kernels();
// One embedding row: column `index` of the packed matrix, dequantised to float32 (scale * (u - zero)).
void gather_column(Format format, const uint8_t* packed, int k, int64_t index, float* out);

}  // namespace qwell
