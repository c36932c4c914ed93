// The tiled attention family: formula in kernels.h. TileWalk multiplies: tile_walk.h over tiles, pairs.h over
// pairs.
//
// An item is up to 64 query rows of one sequence and one kv head, all inside one page, so all of them
// end in the same block of 64 keys. Its queries (rows of every head of the group) are packed to tiles
// of 16; a few tiles of queries share each page.
#pragma once

#include "tile_units.h"

namespace {

using namespace qwell;

inline void run_tile_part(const AttentionItem& item, const TileScratch& s, const TilePages& pages, int part) {
  const int tiles = (item.rows * item.group + kTile - 1) / kTile;
  const bool last = (item.first_position + item.rows - 1) / kPart == part;
  for (int tile = 0; tile < tiles; tile += kSharing)
    TileWalk{{item, s, pages, last, tile, std::min(kSharing, tiles - tile)}}.run();
}

inline bool is_finite(const float* x, int n) {
  V::F zeros = V::set1(0.0f);
  for (int i = 0; i < n; i += kLanes) zeros = V::fma(V::load(x + i), V::set1(0.0f), zeros);
  return V::sum(zeros) == 0.0f;
}

// Queries by head, then by row, in the unit of the scores: log2(e) / sqrt(H). One with a number that is not finite is
// NaN throughout, or its scores could be -infinity, which counts as a key that weighs nothing.
inline void pack_queries(const AttentionItem& item, const TileScratch& s) {
  const int H = item.head_dim;
  const V::F unit = V::set1(1.44269504f / std::sqrt(float(H)));
  for (int i = 0; i < item.rows * item.group; i++) {
    const float* q = item.q + i % item.rows * item.stride + i / item.rows * H;
    uint8_t* to = s.q + (int64_t(i) / kTile * s.steps * kTile + i % kTile) * 64;
    const bool finite = is_finite(q, H);
    const auto at = [&](int d) { return d < H ? V::mul(V::load(q + d), unit) : V::set1(0.0f); };
    for (int d = 0; d < H; d += 32, to += kTileBytes)
      if (finite) Bf16::store32(reinterpret_cast<uint16_t*>(to), at(d), at(d + kLanes));
      else std::memset(to, 0xff, 64);
  }
  if (H % 32) std::memset(s.tail, 0, 4 * kTileBytes);
}

// Query i's results of the part that was run last.
inline void take_part(const TileScratch& s, int i, const Partial& to) {
  std::memcpy(to.out, s.out + int64_t(i) * to.H, to.H * sizeof(float));
  to.top() = s.top[i], to.sum() = V::sum(V::load(s.lanes + int64_t(i) * kLanes));
}

// `total` takes up `part`; a total without parts takes it as it is.
inline void merge_tiled(const Partial& total, const Partial& part, bool first) {
  if (first) return void(std::memcpy(total.out, part.out, partial_floats(total.H) * sizeof(float)));
  const float next = part.top() > total.top() ? part.top() : total.top();
  alignas(64) float a[kLanes], b[kLanes];
  V::store(a, Bf16::scale2(V::set1(1.0f), V::set1(total.top() - next)));
  V::store(b, Bf16::scale2(V::set1(1.0f), V::set1(part.top() - next)));
  total.sum() = std::fma(total.sum(), a[0], part.sum() * b[0]);
  for (int d = 0; d < total.H; d += kLanes)
    V::store(total.out + d,
             V::fma(V::load(total.out + d), V::set1(a[0]), V::mul(V::load(part.out + d), V::set1(b[0]))));
  total.top() = next;
}

// Whether the values that some rows of the item see and others do not are numbers: only then is
// p = 0 enough to hide them. They lie in the edge.
inline bool hidden_are_finite(const AttentionItem& item, const uint16_t* edge) {
  const int first = item.first_position % kPage + 1, H = item.head_dim;
  V::F not_finite = V::set1(0.0f);
  for (int key = first / 2 * 2; key < first + item.rows - 1; key += 2)
    for (int d = 0; d < H; d += kLanes) {
      const uint16_t* pair = edge + key * H + 2 * d;
      not_finite = V::fma(V::even_bf16(pair), V::set1(0.0f), not_finite);
      not_finite = V::fma(V::odd_bf16(pair), V::set1(0.0f), not_finite);
    }
  return V::sum(not_finite) == 0.0f;
}

inline void attend_row_by_row(const AttentionItem& item, uint8_t* memory);

void attention_tiles(const AttentionItem& item, uint8_t* memory) {
  const TileScratch s(memory, item.group, item.head_dim);
  const int H = item.head_dim, last = (item.first_position + item.rows - 1) / kPart;
  pack_queries(item, s);
  alignas(64) float result[kMaxHeadDim + kLanes];
  for (int part = 0; part <= last; part++) {
    const TilePages pages = open_tile_part(item, s, part);
    if (part == last && item.rows > 1 && !hidden_are_finite(item, s.edge)) return attend_row_by_row(item, memory);
    run_tile_part(item, s, pages, part);
    for (int i = 0; i < item.rows * item.group; i++) {
      const Partial total{s.totals + int64_t(i) * partial_floats(H), H};
      take_part(s, i, {result, H});
      merge_tiled(total, {result, H}, part == 0);
      if (part == last) normalize(total, item.out + i % item.rows * item.stride + i / item.rows * H);
    }
  }
}

// A row must not meet what it does not see.
inline void attend_row_by_row(const AttentionItem& item, uint8_t* memory) {
  for (int r = 0; r < item.rows; r++) {
    AttentionItem one = item;
    one.q += r * item.stride, one.out += r * item.stride, one.rows = 1, one.first_position += r;
    attention_tiles(one, memory);
  }
}

void attention_tiles_part(const AttentionItem& item, int part, uint8_t* memory, float* to) {
  AttentionItem row = item;
  row.rows = 1;
  const TileScratch s(memory, item.group, item.head_dim);
  pack_queries(row, s);
  run_tile_part(row, s, open_tile_part(row, s, part), part);
  for (int head = 0; head < item.group; head++)
    take_part(s, head, {to + head * partial_floats(item.head_dim), item.head_dim});
}

void attention_tiles_merge(const AttentionItem& item, float* parts, int count) {
  const int H = item.head_dim, step = partial_floats(H);
  for (int head = 0; head < item.group; head++) {
    const Partial total{parts + head * step, H};
    for (int part = 1; part < count; part++)
      merge_tiled(total, {parts + (int64_t(part) * item.group + head) * step, H}, false);
    normalize(total, item.out + head * H);
  }
}

}  // namespace
