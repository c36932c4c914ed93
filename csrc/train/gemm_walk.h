// The walk of gemm.h over packed blocks, whatever multiplies them. Textual: included between push and
// pop of a target, after `round.h`; see kernels/avx2.cpp for the rule. `Dots` of the includer is
//
//   static constexpr int64_t kPackedA                    bytes of A that stay in the L2
//   static void begin(), end()                           of a thread, around its work
//   static void dots(a, b, steps, rows, fresh, c, beside)
//     c[2 x 2 tiles] (+)= the first `rows` of a block of A against a panel of B, both `steps` deep
//
// Blocking: a block of A (rows x depth, packed by all threads together) stays in the L2 of every
// thread and streams past chunks of B (32 columns x at most 512 deep, packed by the thread that
// owns the columns) that stay in L1. A tile of packed A or B is 1 KB:
//
//   A [block of 32 rows][step of 32 k][2 tiles] 16 rows x 32 k
//   B [panel of 32 columns][step of 32 k][2 tiles] 16 pairs of k x 16 columns x 2
//   C [panel][block of 32 rows][2 x 2 tiles] 16 x 16 float32, while k is not exhausted
#pragma once

#include <algorithm>
#include <cstdint>

#include "gemm.h"
#include "gemm_pack.h"

namespace {

using namespace qwell;

__m512 wide(__m256i bf16) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bf16), 16)); }

// --- the end of a block -----------------------------------------------------------------------

// Rounds rows [begin, end) of a 32 x 32 block of sums into C.
void finish(const Gemm& g, int m, int n, const float* c, int begin, int end) {
  end = std::min(end, g.m - m);
  for (int h = 0; h < 2; h++) {
    const int column = n + h * kTile, columns = std::min(kTile, g.n - column);
    if (columns <= 0) break;
    const __mmask16 mask = columns == 16 ? 0xffff : (1u << columns) - 1;
    const __m512 bias = g.bias ? wide(_mm256_maskz_loadu_epi16(mask, g.bias + column)) : _mm512_setzero_ps();
    for (int r = begin; r < end; r++) {
      const int64_t at = (m + r) * g.c_row + column;
      __m512 sum = _mm512_add_ps(_mm512_load_ps(c + (r / 16) * 512 + h * 256 + (r % 16) * 16), bias);
      if (g.sums) {
        if (g.add) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, g.sums + at));
        _mm512_mask_storeu_ps(g.sums + at, mask, sum);
        continue;
      }
      if (g.add) sum = _mm512_add_ps(sum, wide(_mm256_maskz_loadu_epi16(mask, g.c + at)));
      _mm256_mask_storeu_epi16(g.c + at, mask, round16(sum));
    }
  }
}

// Asks for the lines of C a block of 32 x 32 sums will go to.
void ask_for_result(const Gemm& g, int m, int n) {
  const int end = std::min(kBlock, g.m - m);
  for (int r = 0; r < end; r++) {
    const int64_t at = (m + r) * g.c_row + n;
    if (g.sums) {
      ask_to_write(g.sums + at), ask_to_write(g.sums + at + std::min(kTile, g.n - n - 1));
    } else {
      ask_to_write(g.c + at);
    }
  }
}

// What remains beside the dots, in small portions, so that tiles multiply meanwhile: to round the
// block before this one into C, then to pack the next chunk of B (or to
// ask for it, where it is packed already).
class Beside {
 public:
  explicit Beside(const Gemm& g) : g_(g) {}

  void round(int m, int n, const float* c) {
    round_all();
    m_ = m, n_ = n, c_ = c, row_ = 0;
  }
  // Tiles of `steps` steps of a panel from `step` on; packed: they only have to come nearer.
  void pack(int panel, int step, int steps, uint8_t* out, bool packed) {
    panel_ = panel, step_ = step, tile_ = 0, tiles_ = 2 * steps, out_ = out, packed_ = packed;
  }
  void a_little() {
    if (row_ < kBlock) {
      finish(g_, m_, n_, c_, row_, row_ + 4);
      row_ += 4;
    } else if (tile_ < tiles_) {
      pack_one();
    }
  }
  void round_all() {
    if (row_ < kBlock) finish(g_, m_, n_, c_, row_, kBlock);
    row_ = kBlock;
  }
  void pack_all() {
    while (tile_ < tiles_) pack_one();
  }

 private:
  void pack_one() {
    const int s = tile_ / 2, h = tile_ % 2;
    uint8_t* tile = out_ + tile_++ * kTileBytes;
    if (packed_) {
      for (int i = 0; i < kTileBytes; i += 64) ask_nearer(tile + i);
    } else {
      pack_b(g_, panel_ * kBlock + h * kTile, step_ + s, tile);
    }
  }

  const Gemm& g_;
  int m_ = 0, n_ = 0, row_ = kBlock;
  const float* c_ = nullptr;
  int panel_ = 0, step_ = 0, tile_ = 0, tiles_ = 0;
  uint8_t* out_ = nullptr;
  bool packed_ = false;
};

// --- the walk ---------------------------------------------------------------------------------

struct Plan {
  Plan(const Gemm& g, int threads, int64_t packed_a) {
    blocks = div_up(g.m, kBlock), panels = div_up(g.n, kBlock), steps = first_steps(g) + div_up(g.k2, kStep);
    const int depths = div_up(steps, kDepthSteps);
    depth = div_up(steps, depths);
    chunk = div_up(depth, div_up(depth, kChunkSteps));
    const int most = std::max<int64_t>(1, packed_a / (int64_t(depth) * kStepBytes));
    rows = div_up(blocks, div_up(blocks, most));
    own = div_up(panels, threads);
    a_bytes = int64_t(rows) * depth * kStepBytes;
    const int64_t all_b = int64_t(own) * steps * kStepBytes;
    resident = rows < blocks && all_b <= kResidentB;
    b_bytes = resident ? all_b : 2 * int64_t(chunk) * kStepBytes;
    c_bytes = int64_t(rows) * 4096 * (depths > 1 ? own : 1);
  }
  int64_t bytes(int threads) const { return 2 * a_bytes + threads * (b_bytes + c_bytes); }

  int blocks, panels, steps;    // of 32 rows, 32 columns, 32 k
  int depth, chunk, rows, own;  // steps of A in L2, of B in L1; blocks of A in L2; panels of a thread
  bool resident;                // B of a thread is packed once for all rows
  int64_t a_bytes, b_bytes, c_bytes;
};

struct Job {
  Team* team;  // null: one thread
  const Gemm& g;
  Plan plan;
  uint8_t* memory;
};

// The panels of one thread against one packed block of A. Chunks of B take turns in two halves of
// a buffer, or have places of their own where B stays.
template <class Dots>
void walk_panels(const Job& job, int id, const uint8_t* a, int first, int rows, int step, int depth) {
  const Plan& p = job.plan;
  uint8_t* own_b = job.memory + 2 * p.a_bytes + id * (p.b_bytes + p.c_bytes);
  float* own_c = reinterpret_cast<float*>(own_b + p.b_bytes);
  const int begin = id * p.own, end = std::min(p.panels, begin + p.own);
  const int chunks = div_up(depth, p.chunk), total = (end - begin) * chunks;
  const bool kept = p.resident && first > 0;
  const auto place = [&](int i) {
    if (!p.resident) return own_b + (i % 2) * p.chunk * kStepBytes;
    return own_b + (int64_t(i / chunks) * p.steps + step + i % chunks * p.chunk) * kStepBytes;
  };
  const auto length = [&](int i) { return std::min(p.chunk, depth - i % chunks * p.chunk); };
  Beside beside(job.g);
  const auto prepare = [&](int i) {
    beside.pack(begin + i / chunks, step + i % chunks * p.chunk, i < total ? length(i) : 0, place(i), kept);
  };
  prepare(0);
  for (int i = 0; i < total; i++) {
    beside.pack_all();
    prepare(i + 1);
    const int panel = begin + i / chunks, s = i % chunks * p.chunk, n = length(i);
    float* c = own_c + (p.depth < p.steps ? int64_t(panel - begin) * p.rows * 1024 : 0);
    for (int r = 0; r < rows; r++) {
      if (step + s + n == p.steps) ask_for_result(job.g, (first + r) * kBlock, panel * kBlock);
      if (rows == 1) beside.round_all();  // its sums are about to be written over
      Dots::dots(a + (int64_t(r) * depth + s) * kStepBytes, place(i), n,
                 std::min(kBlock, job.g.m - (first + r) * kBlock), step + s == 0, c + r * 1024, beside);
      if (step + s + n == p.steps) beside.round((first + r) * kBlock, panel * kBlock, c + r * 1024);
    }
  }
  beside.round_all();
}

template <class Dots>
void work(void* context, int id) {
  const Job& job = *static_cast<const Job*>(context);
  const Plan& p = job.plan;
  const int threads = job.team ? job.team->size() : 1;
  Dots::begin();
  int turn = 0;
  for (int first = 0; first < p.blocks; first += p.rows)
    for (int step = 0; step < p.steps; step += p.depth, turn ^= 1) {
      const int rows = std::min(p.rows, p.blocks - first), depth = std::min(p.depth, p.steps - step);
      uint8_t* a = job.memory + turn * p.a_bytes;
      for (int r = id; r < rows; r += threads)
        for (int s = 0; s < depth; s++)
          for (int h = 0; h < 2; h++)
            pack_a(job.g, (first + r) * kBlock + h * kTile, step + s,
                   a + (int64_t(r) * depth + s) * kStepBytes + h * kTileBytes);
      if (job.team) job.team->barrier();  // the next block goes to the other half, so this is the only meeting
      walk_panels<Dots>(job, id, a, first, rows, step, depth);
    }
  Dots::end();
}

template <class Dots>
void gemm_team(Team& team, GemmScratch& scratch, const Gemm& g) {
  Job job{&team, g, Plan(g, team.size(), Dots::kPackedA), nullptr};
  job.memory = scratch.at_least(job.plan.bytes(team.size()));
  team.run(work<Dots>, &job);
}

template <class Dots>
void gemm_alone(GemmScratch& scratch, const Gemm& g) {
  Job job{nullptr, g, Plan(g, 1, Dots::kPackedA), nullptr};
  job.memory = scratch.at_least(job.plan.bytes(1));
  work<Dots>(&job, 0);
}

}  // namespace
