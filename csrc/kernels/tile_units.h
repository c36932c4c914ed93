// A unit of tiled attention, whatever multiplies: one tile of queries against one page, and the weights it
// makes of its scores. Formula in kernels.h.
#pragma once

#include "attention.h"
#include "rows.h"

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

// Tiles [tile, tile + sharing) of an item against the pages of one part: unit u is tile u % sharing and
// page u / sharing.
struct TileUnits {
  const AttentionItem& item;
  const TileScratch& s;
  const TilePages& pages;
  const bool last;  // part of the item
  const int tile, sharing, H = item.head_dim;
  alignas(64) float rescale[2][kTile] = {}, top[kTile] = {};
  uint32_t moved[2] = {};  // rows whose top did, by the unit's slot
  TileUnit now = {};       // whose weights are made

  int count() const { return pages.count * sharing; }
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

  // What was gathered before a unit counts for less where the top moved.
  void rescale_out(const TileUnit& unit) const {
    for (uint32_t left = moved[unit.slot]; left; left &= left - 1) {
      const int r = __builtin_ctz(left);
      const V::F by = V::set1(rescale[unit.slot][r]);
      float* out = unit.out + r * H;
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

  // The page behind the unit's, which its first tile asks for; null for the others.
  const uint8_t* next_page(int u) const { return tile > 0 || u % sharing > 0 ? nullptr : pages.keys[u / sharing + 1]; }
  // Dealt out over the unit's rows.
  void prefetch(int u, int row) const {
    const uint8_t* next = next_page(u);
    if (!next) return;
    const int lines = H * 4, begin = lines * row / now.rows, end = lines * (row + 1) / now.rows;
    for (int i = begin; i < end; i++) V::prefetch(next + i * 64);
  }
};

}  // namespace
