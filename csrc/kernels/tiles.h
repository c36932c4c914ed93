// The tiled linear family over T's tiles and V's lanes: formula in kernels.h, written once.
//
// A chunk of a panel is unpacked to bf16 pairs and meets all rows; sums wait in c in between. The
// tile unit works on its own once it is told, so the next chunk is unpacked a piece at a time
// between its products and costs nothing beside them. Rows stream from the second-level cache past
// the first (T::stream), where the chunk stays. Measured in LOG.md, 2026-11-25. T is amx.h or
// tiles_emulated.h; nothing here knows which.
#pragma once

#include "linear.h"
#include "rows.h"

namespace {

using namespace qwell;

// A B operand: for every 32 of k two tiles of 16 columns, [k / 2][16 columns][2].
inline constexpr int kStepBytes = 2 * kTileBytes;  // of A and of B

// Tile by tile, so that lines are written in the order they lie in.
void pack_tiles(const float* x, int64_t stride, int k, int row, int count, int rows, uint8_t* a) {
  const TileChunks chunks(k);
  a += row % kTileRows / 16 * kTileBytes + row % 16 * 64;
  for (int chunk = 0, from = 0; chunk < chunks.count; chunk++) {
    const int steps = chunks.steps(chunk);
    uint8_t* to = a + int64_t(row / kTileRows) * steps * kStepBytes;
    for (int step = 0; step < steps; step++, from += 32, to += kStepBytes)
      for (int r = 0; r < count; r++) {
        const float* p = x + r * stride + from;
        uint16_t* line = reinterpret_cast<uint16_t*>(to + r * 64);
        const bool whole = from + 32 <= k;
        Bf16::store(line, whole ? V::load(p) : load_part(p, std::max(k - from, 0)));
        Bf16::store(line + kLanes, whole ? V::load(p + kLanes) : load_part(p + kLanes, std::max(k - from - kLanes, 0)));
      }
    a += int64_t(tile_blocks(rows)) * steps * kStepBytes;
  }
}

void tile_result(const TileResult& t) {
  for (int at = 0; at < t.columns; at += kLanes) {
    const float* c = t.c + at / kPanel * tile_floats(t.rows) + at / kLanes % 2 * (16 * kLanes);
    const V::F bias = t.bias ? V::load(t.bias + at) : V::set1(0.0f);
    for (int i = 0; i < t.count; i++) {
      const int r = t.row + i;
      V::F y = V::load(c + r / 16 * (2 * 16 * kLanes) + r % 16 * kLanes);
      if (t.bias) y = V::add(y, bias);
      if (t.add) y = V::add(y, V::load(t.add + i * t.add_stride + at));
      V::store(t.y + i * t.stride + at, y);
    }
  }
}

void tile_silu(const TileSilu& work) {
  for (int r = work.row; r < work.row + work.count; r++) {
    const int at = r / 16 * (2 * 16 * kLanes) + r % 16 * kLanes;
    uint8_t* line = work.a + r / kTileRows * work.block_bytes + r % kTileRows / 16 * kTileBytes + r % 16 * 64;
    for (int half = 0; half < 2; half++) {
      const int from = at + half * 16 * kLanes;
      Bf16::store(reinterpret_cast<uint16_t*>(line) + half * kLanes,
                  silu16(V::load(work.gate + from), V::load(work.up + from)));
    }
  }
}

// Sixteen columns of four inputs as two lines of B.
inline void expand(V::B u, V::F scale, V::F offset, uint8_t* to) {
  uint16_t* b = reinterpret_cast<uint16_t*>(to);
  Bf16::store_pairs(b, V::fma(Bf16::byte<0>(u), scale, offset), V::fma(Bf16::byte<1>(u), scale, offset));
  Bf16::store_pairs(b + 32, V::fma(Bf16::byte<2>(u), scale, offset), V::fma(Bf16::byte<3>(u), scale, offset));
}

// The 32 inputs of group g of a panel become two tiles of B in kPieces pieces. `ahead` is from this
// line to one that will be wanted soon.
inline constexpr int kPieces = 8;
template <Format F>
struct Unpack {
  using P = Packed<F>;
  using L = Block<F>;

  static void piece(const uint8_t* panel, int, int g, int piece, uint8_t* b, int64_t ahead) {
    const int half = piece / 4;
    switch (piece % 4) {
      case 0: return rows<0>({panel}, g, half, b + half * kTileBytes, ahead);
      case 1: return rows<1>({panel}, g, half, b + half * kTileBytes, ahead);
      case 2: return rows<2>({panel}, g, half, b + half * kTileBytes, ahead);
      default: return rows<3>({panel}, g, half, b + half * kTileBytes, ahead);
    }
  }

 private:
  // Two rows of four inputs: those that share line I, or the neighbours 2 I and 2 I + 1 of 8 bits.
  template <int I>
  static void rows(const P& packed, int g, int half, uint8_t* b, int64_t ahead) {
    constexpr int one = P::bits == 8 ? 2 * I : I, two = P::bits == 8 ? 2 * I + 1 : I + 4;
    const uint8_t* p = packed.block(g) + L::codes + (g % (L::inputs / kGroup)) * L::group_bytes;
    if (I == 0) fetch(packed, g, half, ahead);
    V::B first, second;
    if constexpr (P::bits == 8) {
      first = V::loadb(p + half * 512 + 64 * one), second = V::loadb(p + half * 512 + 64 * two);
    } else {
      const V::B line = V::loadb(p + half * 256 + 64 * I);
      first = V::low_nibble(line), second = V::high_nibble(line);
    }
    if constexpr (P::bits == 5) {
      const V::B plane = V::loadb(p + L::high + half * 64);
      first = V::template or_bit5<one>(first, plane), second = V::template or_bit5<two>(second, plane);
    }
    if constexpr (P::bits == 6) {
      const uint8_t* planes = p + L::high + half * 128;
      first = V::template or_bits56<I>(first, V::loadb(planes));
      second = V::template or_bits56<I>(second, V::loadb(planes + 64));
    }
    const V::F scale = packed.scale(g, 0, half), offset = offset_of(packed, scale, g, 0, half);
    expand(first, scale, offset, b + one * 128);
    if constexpr (P::group == kGroup) return expand(second, scale, offset, b + two * 128);
    const V::F other = packed.scale(g, 1, half);
    expand(second, other, offset_of(packed, other, g, 1, half), b + two * 128);
  }
  static V::F offset_of(const P& packed, V::F scale, int g, int sub, int half) {
    if constexpr (P::mins) return V::neg(packed.min(g, sub, half));
    return V::mul(scale, V::set1(-float(P::zero)));
  }
  static void fetch(const P& packed, int g, int half, int64_t ahead) {
    const uint8_t* p = packed.block(g) + (g % (L::inputs / kGroup) * 2 + half) * P::kShare;
    for (int i = 0; i < P::kLines; i++) V::prefetch(p + ahead + 64 * i);
  }
};

template <>
struct Unpack<Format::BF16> {
  static void piece(const uint8_t* panel, int k, int g, int piece, uint8_t* b, int64_t ahead) {
    for (int pair = 2 * piece; pair < 2 * piece + 2; pair++)
      for (int half = 0; half < 2; half++) {
        const int64_t i = 16 * int64_t(g) + pair;
        uint8_t* to = b + half * kTileBytes + 64 * pair;
        if (2 * i >= k) {
          std::memset(to, 0, 64);
          continue;
        }
        const uint8_t* line = panel + i * 4 * kPanel + 64 * half;
        V::prefetch(line + ahead);
        V::storeb(to, V::loadb(line));
      }
  }
};

// One chunk of one panel on its way to bf16.
template <Format F>
struct Filling {
  const uint8_t* panel = nullptr;
  int k = 0, group = 0, piece = 0, left = 0;
  uint8_t* b = nullptr;
  int64_t ahead = 0;

  __attribute__((always_inline)) void run(int pieces) {
    for (; pieces > 0 && left > 0; pieces--, left--) {
      Unpack<F>::piece(panel, k, group, piece, b, ahead);
      if (++piece == kPieces) piece = 0, group++, b += kStepBytes;
    }
  }
};

// Other work, dealt evenly to the steps of a pass.
struct Dealing {
  const Meanwhile& work;
  int64_t steps, left = work.count, credit = 0;

  void step() {
    for (credit += work.count; credit >= steps && left > 0; credit -= steps, left--) work.piece(work.context);
  }
  void rest() {
    for (; left > 0; left--) work.piece(work.context);
  }
};

// A block of up to 32 rows against one chunk. Tiles 0..3 are its sums, 4 and 5 rows, 6 and 7 columns.
struct TileBlock {
  float* c;
  bool two;    // more than 16 rows
  bool first;  // sums start from zero
};

template <int M, class Fill>
inline void dot_steps(const uint8_t* a, const uint8_t* b, int steps, Fill& fill, int pieces, Dealing& other) {
  for (int s = 0; s < steps; s++, a += kStepBytes, b += kStepBytes) {
    T::template load<6>(b, 64), T::template stream<4>(a, 64);
    T::template dot<0, 4, 6>();
    fill.run(pieces);
    T::template load<7>(b + kTileBytes, 64);
    T::template dot<1, 4, 7>();
    other.step();
    if constexpr (M == 2) {
      T::template stream<5>(a + kTileBytes, 64);
      T::template dot<2, 5, 6>();
      T::template dot<3, 5, 7>();
    }
  }
}

template <int t>
inline void begin_tile(const TileBlock& block) {
  if (block.first) T::template zero<t>();
  else T::template load<t>(block.c + t * 256, 64);
}
inline void begin_block(const TileBlock& block) {
  begin_tile<0>(block), begin_tile<1>(block);
  if (block.two) begin_tile<2>(block), begin_tile<3>(block);
}
// Stores one block and begins the next, tile by tile: the next product need not wait for all stores.
inline void turn(const TileBlock& now, const TileBlock& next) {
  T::template store<0>(now.c, 64), begin_tile<0>(next);
  T::template store<1>(now.c + 256, 64), begin_tile<1>(next);
  if (now.two) T::template store<2>(now.c + 512, 64);
  if (next.two) begin_tile<2>(next);
  if (now.two) T::template store<3>(now.c + 768, 64);
  if (next.two) begin_tile<3>(next);
}
inline void end_block(const TileBlock& block) {
  T::template store<0>(block.c, 64), T::template store<1>(block.c + 256, 64);
  if (block.two) T::template store<2>(block.c + 512, 64), T::template store<3>(block.c + 768, 64);
}

// The chunks of a pass in the order they are computed: chunk by chunk, in each all panels.
template <Format F>
struct PassWalk {
  const TilePass& p;
  int chunks, blocks;

  explicit PassWalk(const TilePass& pass) : p(pass), blocks(tile_blocks(pass.rows)) {
    chunks = ((p.k + 31) / 32 + p.chunks.length - 1) / p.chunks.length;
  }
  int jobs() const { return chunks * p.count; }
  int total_steps() const { return (p.k + 31) / 32 * p.count; }
  int steps(int job) const {
    const int first = job / p.count * p.chunks.length, end = (p.k + 31) / 32;
    return end - first < p.chunks.length ? end - first : p.chunks.length;
  }
  const uint8_t* rows(int job, int block) const {
    const int chunk = job / p.count;
    const int64_t at = int64_t(chunk) * p.chunks.length * blocks + int64_t(block) * p.chunks.steps(chunk);
    return p.a + at * kStepBytes;
  }
  TileBlock block(int job, int block) const {
    return {p.c + (int64_t(job % p.count) * blocks + block) * (kTileRows * kPanel), p.rows - block * kTileRows > 16,
            job < p.count};
  }
  // job == jobs(): the first of the next pass, or nothing.
  Filling<F> filling(int job, uint8_t* b) const {
    Filling<F> f;
    const bool beyond = job == jobs();
    if (beyond && !p.next) return f;
    f.panel = beyond ? p.next : p.panels + job % p.count * p.panel_bytes;
    f.k = p.k, f.b = b;
    f.group = beyond ? 0 : job / p.count * p.chunks.length;
    f.left = steps(beyond ? 0 : job) * kPieces;
    f.ahead = p.count > 1 ? p.panel_bytes : p.panel_bytes / chunks;  // what the next job reads
    return f;
  }
};

// What a thread keeps from pass to pass: two chunks, and which panel's first one is ready.
struct TileBuffers {
  const uint8_t* ready;
  int which;
};

template <Format F>
void linear_tiles(const TilePass& p) {
  const PassWalk<F> walk(p);
  TileBuffers& kept = *reinterpret_cast<TileBuffers*>(p.scratch);
  const auto buffer = [&](int which) { return p.scratch + 64 + which * (TileChunks::kMost * kStepBytes); };
  int which = kept.which;
  if (kept.ready != p.panels) {
    Filling<F> first = walk.filling(0, buffer(which));
    first.run(first.left);
  }
  const int pieces = (kPieces + walk.blocks - 1) / walk.blocks;  // a step
  Dealing other{p.meanwhile, int64_t(walk.total_steps()) * walk.blocks};
  TileBlock now = walk.block(0, 0);
  begin_block(now);
  for (int job = 0; job < walk.jobs(); job++, which ^= 1) {
    Filling<F> fill = walk.filling(job + 1, buffer(which ^ 1));
    const int steps = walk.steps(job);
    for (int r = 0; r < walk.blocks; r++) {
      if (now.two) dot_steps<2>(walk.rows(job, r), buffer(which), steps, fill, pieces, other);
      else dot_steps<1>(walk.rows(job, r), buffer(which), steps, fill, pieces, other);
      const bool last = r + 1 == walk.blocks;
      if (last && job + 1 == walk.jobs()) break;
      const TileBlock next = last ? walk.block(job + 1, 0) : walk.block(job, r + 1);
      turn(now, next);
      now = next;
    }
    fill.run(fill.left);
  }
  end_block(now);
  other.rest();
  kept.ready = p.next, kept.which = which;
}

}  // namespace
