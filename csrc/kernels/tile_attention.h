// The tiled attention family over T's tiles and V's lanes: formula in kernels.h.
//
// An item is up to 64 query rows of one sequence and one kv head, all inside one page, so all of them
// end in the same block of 64 keys. Its queries (rows of every head of the group) are packed to tiles
// of 16. Tiles load keys and values straight from the pages; a few tiles of queries share each page.
//
// The work is a pipeline over units, a unit being one tile of queries against one page: while the
// vector lanes make weights of the scores of unit u, the tile unit multiplies the scores of u + 1 and
// the values of u - 1. Its products are dealt out between the rows of the softmax: tiles and lanes are
// different parts of the processor and work at the same time.
#pragma once

#include "attention.h"
#include "tiles.h"

namespace {

using namespace qwell;

inline constexpr int kTile = 16;    // rows of a tile
inline constexpr int kSharing = 2;  // tiles of queries that meet a page together

// 2^(score - top) in 16 lanes, by a polynomial good for bf16.
inline V::F tile_exp2(V::F score, V::F top) {
  const V::F y = V::sub(score, top), f = Bf16::fraction(y);
  V::F p = V::fma(V::set1(0.0780244246f), f, V::set1(0.226067305f));
  p = V::fma(p, f, V::set1(0.695833445f));
  p = V::fma(p, f, V::set1(0.999925256f));
  return Bf16::scale2(p, y);
}

// The pages of one part as right operands.
struct TilePages {
  const uint8_t *keys[kPart / kPage + 1], *values[kPart / kPage];
  int count;
};

// The values of the item's last page with zeros for the keys behind it: what lies there is not of
// this sequence, and 0 times it need not be 0.
inline void copy_edge(const uint16_t* values, int visible, int head_dim, uint16_t* edge) {
  const int pairs = visible / 2 * 2 * head_dim;
  std::memcpy(edge, values, pairs * 2);
  std::memset(edge + pairs, 0, (kPage * head_dim - pairs) * 2);
  if (visible % 2)
    for (int d = 0; d < 2 * head_dim; d += 2) edge[pairs + d] = values[pairs + d];
}

inline TilePages open_tile_part(const AttentionItem& item, const TileScratch& s, int part) {
  const int end = item.first_position + item.rows, blocks = (end - 1) / kPage + 1;
  const int first = part * (kPart / kPage), count = std::min(blocks - first, kPart / kPage);
  TilePages pages;
  pages.count = count;
  for (int i = 0; i < count; i++) {
    const uint16_t* page = open_page(item, first + i, i);
    pages.keys[i] = reinterpret_cast<const uint8_t*>(page);
    pages.values[i] = reinterpret_cast<const uint8_t*>(page + item.head_dim * kPage);
  }
  const bool more = !item.int8 && first + count < blocks;
  pages.keys[count] = more ? item.pages[first + count] : pages.keys[count - 1];
  if (first + count < blocks) return pages;
  copy_edge(reinterpret_cast<const uint16_t*>(pages.values[count - 1]), (end - 1) % kPage + 1, item.head_dim, s.edge);
  pages.values[count - 1] = reinterpret_cast<const uint8_t*>(s.edge);
  return pages;
}

// One tile of queries against one page.
struct TileUnit {
  const uint8_t *q, *keys, *values;
  float *out, *lanes, *top;
  int rows, query;   // that count; the first one's number in the item
  int slot;          // 0 or 1: which scores and weights
  bool first, edge;  // page of the part; page of the item, not all rows see all of it
};

// Tiles [tile, tile + sharing) of an item against the pages of one part.
struct TileWalk {
  const AttentionItem& item;
  const TileScratch& s;
  const TilePages& pages;
  const bool last;  // part of the item
  const int tile, sharing, H = item.head_dim;
  alignas(64) float rescale[2][kTile] = {}, top[kTile] = {};
  uint32_t moved[2] = {};                       // rows whose top did, of the units in flight
  float* pending[4] = {};                       // where sums in tiles 0 .. 3 go,
  int64_t stride_of[4] = {};                    // bytes from row to row
  TileUnit before = {}, now = {}, behind = {};  // units u - 1, u, u + 1
  int score_slots = 0, value_slots = 0;         // of this unit

  TileUnit unit_at(int u) const {
    const int page = u / sharing, t = tile + u % sharing;
    const int64_t query = int64_t(t) * kTile;
    return {s.q + query * s.steps * 64,
            pages.keys[page],
            pages.values[page],
            s.out + query * H,
            s.lanes + query * kLanes,
            s.top + query,
            std::min(kTile, item.rows * item.group - int(query)),
            int(query),
            u % 2,
            page == 0,
            last && page + 1 == pages.count};
  }

  // Sums stay in tiles 0 .. 3 until their tile is wanted again: a store waits for the last product.
  template <int j>
  void retire() {
    if (pending[j]) T::template store<j>(pending[j], stride_of[j]);
    pending[j] = nullptr;
  }
  void flush() { retire<0>(), retire<1>(), retire<2>(), retire<3>(); }

  // One product of the scores of unit `behind`: keys 16 j .. 16 j + 15 over 32 of d.
  template <int j>
  void score_slot(int step) {
    constexpr int stride = kPage * 4, b = 5 + j % 3;
    const uint8_t* keys = behind.keys + int64_t(step) * 4 * kTileBytes;
    if ((step + 1) * 32 > H) {
      if (j == 0) std::memcpy(s.tail, keys, 2 * kTileBytes);
      keys = s.tail;
    }
    if (j == 0) T::template load<4>(behind.q + step * kTileBytes, 64);
    if (step == 0) retire<j>(), T::template zero<j>();
    T::template load<b>(keys + 64 * j, stride), T::template dot<j, 4, b>();
    if (step + 1 == s.steps) pending[j] = s.scores[behind.slot][0] + kLanes * j, stride_of[j] = stride;
  }

  // One product of the values of unit `before`: 16 of d over half of the keys.
  template <int j>
  void value_slot(int column, int half) {
    constexpr int b = 5 + j % 3;
    const int stride = H * 4;
    float* out = before.out + column + kLanes * j;
    if (half == 0) retire<j>();
    if (column + kLanes * j >= H) return;
    if (j == 0) T::template load<4>(s.p + (before.slot * 2 + half) * kTileBytes, 64);
    if (half == 0) {
      if (before.first) T::template zero<j>();
      else T::template load<j>(out, stride);
    }
    T::template load<b>(before.values + int64_t(half) * kPage * H + column * 4 + 64 * j, stride);
    T::template dot<j, 4, b>();
    if (half == 1) pending[j] = out, stride_of[j] = stride;
  }

  template <int j>
  void slot(int k) {
    if (k < score_slots) return score_slot<j>(k / 4);
    k -= score_slots;
    if (k == 0) rescale_out();
    value_slot<j>(k / 8 * 64, k / 4 % 2);
  }
  void slot(int k) {
    switch (k % 4) {
      case 0: return slot<0>(k);
      case 1: return slot<1>(k);
      case 2: return slot<2>(k);
      case 3: return slot<3>(k);
    }
  }

  // What was gathered before counts for less where the top moved.
  void rescale_out() {
    uint32_t left = moved[before.slot];
    if (left || score_slots == 0) flush();
    for (; left; left &= left - 1) {
      const int r = __builtin_ctz(left);
      const V::F by = V::set1(rescale[before.slot][r]);
      float* out = before.out + r * H;
      for (int d = 0; d < H; d += kLanes) V::store(out + d, V::mul(V::load(out + d), by));
    }
  }

  // Keys of the item's last page that a query sees.
  int seen(int row) const { return item.first_position % kPage + (now.query + row) % item.rows + 1; }
  static uint16_t seen_bits(int j, int seen) {
    return uint16_t(seen - j >= kLanes ? 0xffff : seen > j ? (1 << (seen - j)) - 1 : 0);
  }
  V::F most(int r) const {
    const float* score = s.scores[now.slot][r];
    const auto at = [&](int j) {
      return now.edge ? V::allow(V::load(score + j), seen_bits(j, seen(r))) : V::load(score + j);
    };
    return V::max(V::max(at(0), at(kLanes)), V::max(at(2 * kLanes), at(3 * kLanes)));
  }

  // New tops of the unit from its scores, and what they make of the old sums.
  void tops() {
    const V::F block = Bf16::ceil(Bf16::max_rows([&](int r) { return most(r); }, now.rows));
    const V::F old = V::load(now.top), next = now.first ? block : V::max(old, block);
    V::store(now.top, next), V::store(top, next);
    moved[now.slot] = now.first ? 0 : Bf16::differ(old, next) & ((1u << now.rows) - 1);
    V::store(rescale[now.slot], Bf16::scale2(V::set1(1.0f), V::sub(old, next)));
  }

  // Weights of one row of the unit from its scores, and their sums.
  void weights(int r) const {
    const float* score = s.scores[now.slot][r];
    float* lanes = now.lanes + r * kLanes;
    V::F sum = now.first ? V::set1(0.0f) : V::mul(V::load(lanes), V::set1(rescale[now.slot][r])), p[kVectors];
    for (int j = 0; j < kVectors; j++) {
      p[j] = tile_exp2(V::load(score + j * kLanes), V::set1(top[r]));
      if (now.edge) p[j] = Bf16::keep(p[j], seen_bits(j * kLanes, seen(r)));
    }
    uint16_t* to = reinterpret_cast<uint16_t*>(s.p + now.slot * 2 * kTileBytes) + r * 32;
    Bf16::store32(to, p[0], p[1]), Bf16::store32(to + kTileBytes / 2, p[2], p[3]);
    // What is divided by is the sum of what was multiplied: rounding a weight moves both.
    for (int j = 0; j < kVectors; j++) sum = V::add(sum, V::load_bf16(to + j / 2 * (kTileBytes / 2) + j % 2 * kLanes));
    V::store(lanes, sum);
  }

  void prefetch(const uint8_t* next, int row) const {
    const int lines = H * 4, begin = lines * row / now.rows, end = lines * (row + 1) / now.rows;
    for (int i = begin; i < end; i++) V::prefetch(next + i * 64);
  }

  void run() {
    const int count = pages.count * sharing, scores = 4 * s.steps, values = (H + 63) / 64 * 8;
    behind = unit_at(0), score_slots = scores;
    for (int k = 0; k < scores; k++) slot(k);
    flush();
    for (int u = 0; u < count; u++) {
      before = now, now = behind, behind = unit_at(std::min(u + 1, count - 1));
      score_slots = u + 1 < count ? scores : 0, value_slots = u > 0 ? values : 0;
      unit(tile == 0 && u % sharing == 0 ? pages.keys[u / sharing + 1] : nullptr);
    }
    before = now, score_slots = 0;
    for (int k = 0; k < values; k++) slot(k);
    flush();
  }

  // The unit's weights, with the products of its neighbours between them.
  void unit(const uint8_t* next) {
    tops();
    const int slots = score_slots + value_slots;
    for (int r = 0, due = 0, k = 0; r < now.rows; r++) {
      weights(r);
      for (due += slots; due >= now.rows; due -= now.rows) slot(k++);
      if (next) prefetch(next, r);
    }
    if (value_slots == 0) flush();
  }
};

inline void run_tile_part(const AttentionItem& item, const TileScratch& s, const TilePages& pages, int part) {
  const int tiles = (item.rows * item.group + kTile - 1) / kTile;
  const bool last = (item.first_position + item.rows - 1) / kPart == part;
  for (int tile = 0; tile < tiles; tile += kSharing)
    TileWalk{item, s, pages, last, tile, std::min(kSharing, tiles - tile)}.run();
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
