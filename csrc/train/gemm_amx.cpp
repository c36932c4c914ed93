// gemm.h on the tiles of AMX. See kernels/avx2.cpp for the rule about targets.
//
// Blocking: a block of A (rows x depth, packed by all threads together) stays in the L2 of every
// thread and streams past chunks of B (32 columns x at most 512 deep, packed by the thread that
// owns the columns) that stay in L1. A tile of packed A or B is 1 KB:
//
//   A [block of 32 rows][step of 32 k][2 tiles] 16 rows x 32 k
//   B [panel of 32 columns][step of 32 k][2 tiles] 16 pairs of k x 16 columns x 2
//   C [panel][block of 32 rows][2 x 2 tiles] 16 x 16 float32, while k is not exhausted
#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cstdint>

#include "gemm.h"

// GCC 12 takes the undefined operands inside its own intrinsics for faults of ours.
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,amx-tile,amx-bf16")
#include "../kernels/lanes/amx.h"

namespace {

using namespace qwell;

constexpr int kTile = 16, kBlock = 32, kStep = 32;  // rows of a tile, of a block, k of a step
constexpr int kTileBytes = 1024, kStepBytes = 2 * kTileBytes;
constexpr int kAhead = 2 * kStep;
constexpr int kChunkSteps = 16;  // of B in L1: 32 KB
constexpr int kDepthSteps = 32;  // of A in L2
constexpr int64_t kPackedA = 1 << 20, kResidentB = 32 << 20;

int div_up(int64_t a, int64_t b) { return int((a + b - 1) / b); }

// --- packing: a 16 x 32 corner of a matrix as sixteen registers of sixteen pairs ---------------

// Asks for a line that is packed two steps from now. Assembly, for GCC drops the intrinsic in small
// inline functions.
void ask(const uint16_t* p) { asm volatile("prefetcht0 %0" ::"m"(*p)); }

// Lines along k: register i holds line i, k .. k + 31. Missing lines and k are zero.
void load_lines(const uint16_t* p, int64_t stride, int lines, int k_left, __m512i (&r)[16]) {
  const __mmask32 mask = k_left >= 32 ? ~0u : (1u << k_left) - 1;
  for (int i = 0; i < 16; i++) {
    r[i] = i < lines ? _mm512_maskz_loadu_epi16(mask, p + i * stride) : _mm512_setzero_si512();
    if (i < lines) ask(p + i * stride + kAhead);
  }
}

// Lines across k: register i holds the pairs (k = 2i, 2i + 1) of sixteen columns.
void load_pairs(const uint16_t* p, int64_t stride, int columns, int k_left, __m512i (&r)[16]) {
  const __mmask16 mask = columns >= 16 ? 0xffff : (1u << columns) - 1;
  for (int i = 0; i < 16; i++) {
    const __m256i low = 2 * i < k_left ? _mm256_maskz_loadu_epi16(mask, p + 2 * i * stride) : _mm256_setzero_si256();
    const __m256i high =
        2 * i + 1 < k_left ? _mm256_maskz_loadu_epi16(mask, p + (2 * i + 1) * stride) : _mm256_setzero_si256();
    ask(p + (2 * i + kAhead) * stride), ask(p + (2 * i + 1 + kAhead) * stride);
    r[i] = _mm512_or_si512(_mm512_cvtepu16_epi32(low), _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
  }
}

// r[i][j] <-> r[j][i], elements of 32 bits.
void transpose(__m512i (&r)[16]) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4)
    for (int h = 0; h < 2; h++) {
      r[i + 2 * h] = _mm512_unpacklo_epi64(t[i + h], t[i + 2 + h]);
      r[i + 2 * h + 1] = _mm512_unpackhi_epi64(t[i + h], t[i + 2 + h]);
    }
  for (int i = 0; i < 16; i += 8)
    for (int j = 0; j < 4; j++) {
      t[i + j] = _mm512_shuffle_i32x4(r[i + j], r[i + 4 + j], 0x88);
      t[i + 4 + j] = _mm512_shuffle_i32x4(r[i + j], r[i + 4 + j], 0xdd);
    }
  for (int j = 0; j < 8; j++) {
    r[j] = _mm512_shuffle_i32x4(t[j], t[8 + j], 0x88);
    r[8 + j] = _mm512_shuffle_i32x4(t[j], t[8 + j], 0xdd);
  }
}

void store(const __m512i (&r)[16], uint8_t* out) {
  for (int i = 0; i < 16; i++) _mm512_store_si512(out + 64 * i, r[i]);
}

// Steps of the first pair of operands; those of the second come after.
int first_steps(const Gemm& g) { return div_up(g.k, kStep); }

// Sixteen rows of A from row m, the 32 k of a step.
void pack_a(const Gemm& g, int m, int step, uint8_t* out) {
  __m512i r[16];
  const bool second = step >= first_steps(g);
  const Bf16Matrix& a = second ? g.a2 : g.a;
  const int k = kStep * (second ? step - first_steps(g) : step), left = (second ? g.k2 : g.k) - k;
  const uint16_t* p = a.data + m * a.row + k * a.column;
  if (a.column == 1) {
    load_lines(p, a.row, g.m - m, left, r);
  } else {
    load_pairs(p, a.column, g.m - m, left, r);
    transpose(r);
  }
  store(r, out);
}

// Sixteen columns of B from column n, the 32 k of a step.
void pack_b(const Gemm& g, int n, int step, uint8_t* out) {
  __m512i r[16];
  const bool second = step >= first_steps(g);
  const Bf16Matrix& b = second ? g.b2 : g.b;
  const int k = kStep * (second ? step - first_steps(g) : step), left = (second ? g.k2 : g.k) - k;
  const uint16_t* p = b.data + k * b.row + n * b.column;
  if (b.row == 1) {
    load_lines(p, b.column, g.n - n, left, r);
    transpose(r);
  } else {
    load_pairs(p, b.row, g.n - n, left, r);
  }
  store(r, out);
}

// --- tiles ------------------------------------------------------------------------------------

template <int t>
void load_streaming(const void* p) {
  asm volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" ::"r"(p), "r"(int64_t(64)), "i"(t) : "memory");
}

__m512 wide(__m256i bf16) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bf16), 16)); }

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
      _mm256_mask_storeu_epi16(g.c + at, mask, (__m256i)_mm512_cvtneps_pbh(sum));
    }
  }
}

// What the vector units do while the tiles multiply, a little after every step: round the block
// before this one into C, then pack the next chunk of B.
class Beside {
 public:
  explicit Beside(const Gemm& g) : g_(g) {}

  void round(int m, int n, const float* c) {
    round_all();
    m_ = m, n_ = n, c_ = c, row_ = 0;
  }
  // Tiles of `steps` steps of a panel from `step` on; `out` null: none.
  void pack(int panel, int step, int steps, uint8_t* out) {
    panel_ = panel, step_ = step, tile_ = 0, tiles_ = out ? 2 * steps : 0, out_ = out;
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
    pack_b(g_, panel_ * kBlock + h * kTile, step_ + s, out_ + tile_ * kTileBytes);
    tile_++;
  }

  const Gemm& g_;
  int m_ = 0, n_ = 0, row_ = kBlock;
  const float* c_ = nullptr;
  int panel_ = 0, step_ = 0, tile_ = 0, tiles_ = 0;
  uint8_t* out_ = nullptr;
};

// c[2 x 2 tiles] (+)= a block of A against a panel of B, both `steps` deep.
void dots(const uint8_t* a, const uint8_t* b, int steps, bool fresh, float* c, Beside& beside) {
  if (fresh) {
    T::zero<0>(), T::zero<1>(), T::zero<2>(), T::zero<3>();
  } else {
    T::load<0>(c, 64), T::load<1>(c + 256, 64), T::load<2>(c + 512, 64), T::load<3>(c + 768, 64);
  }
  for (int s = 0; s < steps; s++, a += kStepBytes, b += kStepBytes) {
    T::load<6>(b, 64);
    load_streaming<4>(a);
    T::dot<0, 4, 6>();
    T::load<7>(b + kTileBytes, 64);
    T::dot<1, 4, 7>();
    load_streaming<5>(a + kTileBytes);
    T::dot<2, 5, 6>();
    T::dot<3, 5, 7>();
    beside.a_little();
  }
  T::store<0>(c, 64), T::store<1>(c + 256, 64), T::store<2>(c + 512, 64), T::store<3>(c + 768, 64);
}

// --- the walk ---------------------------------------------------------------------------------

struct Plan {
  Plan(const Gemm& g, int threads) {
    blocks = div_up(g.m, kBlock), panels = div_up(g.n, kBlock), steps = first_steps(g) + div_up(g.k2, kStep);
    const int depths = div_up(steps, kDepthSteps);
    depth = div_up(steps, depths);
    chunk = div_up(depth, div_up(depth, kChunkSteps));
    const int most = std::max<int64_t>(1, kPackedA / (int64_t(depth) * kStepBytes));
    rows = div_up(blocks, div_up(blocks, most));
    own = div_up(panels, threads);
    a_bytes = int64_t(rows) * depth * kStepBytes;
    const int64_t all_b = int64_t(own) * steps * kStepBytes;
    resident = depths == 1 && rows < blocks && all_b <= kResidentB;
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
void walk_panels(const Job& job, int id, const uint8_t* a, int first, int rows, int step, int depth) {
  const Plan& p = job.plan;
  uint8_t* own_b = job.memory + 2 * p.a_bytes + id * (p.b_bytes + p.c_bytes);
  float* own_c = reinterpret_cast<float*>(own_b + p.b_bytes);
  const int begin = id * p.own, end = std::min(p.panels, begin + p.own);
  const int chunks = div_up(depth, p.chunk), total = (end - begin) * chunks;
  const bool kept = p.resident && first > 0;
  const auto place = [&](int i) {
    if (!p.resident) return own_b + (i % 2) * p.chunk * kStepBytes;
    return own_b + (int64_t(i / chunks) * p.steps + i % chunks * p.chunk) * kStepBytes;
  };
  const auto length = [&](int i) { return std::min(p.chunk, depth - i % chunks * p.chunk); };
  Beside beside(job.g);
  const auto prepare = [&](int i) {
    const bool any = i < total && !kept;
    beside.pack(begin + i / chunks, step + i % chunks * p.chunk, any ? length(i) : 0, any ? place(i) : nullptr);
  };
  prepare(0);
  for (int i = 0; i < total; i++) {
    beside.pack_all();
    prepare(i + 1);
    const int panel = begin + i / chunks, s = i % chunks * p.chunk, n = length(i);
    float* c = own_c + (p.depth < p.steps ? int64_t(panel - begin) * p.rows * 1024 : 0);
    for (int r = 0; r < rows; r++) {
      if (rows == 1) beside.round_all();  // its sums are about to be written over
      dots(a + (int64_t(r) * depth + s) * kStepBytes, place(i), n, step + s == 0, c + r * 1024, beside);
      if (step + s + n == p.steps) beside.round((first + r) * kBlock, panel * kBlock, c + r * 1024);
    }
  }
  beside.round_all();
}

void work(void* context, int id) {
  const Job& job = *static_cast<const Job*>(context);
  const Plan& p = job.plan;
  const int threads = job.team ? job.team->size() : 1;
  T::begin();
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
      walk_panels(job, id, a, first, rows, step, depth);
    }
  T::end();
}

}  // namespace

void qwell::gemm_amx(Team& team, GemmScratch& scratch, const Gemm& g) {
  Job job{&team, g, Plan(g, team.size()), nullptr};
  job.memory = scratch.at_least(job.plan.bytes(team.size()));
  team.run(work, &job);
}

void qwell::gemm_amx(GemmScratch& scratch, const Gemm& g) {
  Job job{nullptr, g, Plan(g, 1), nullptr};
  job.memory = scratch.at_least(job.plan.bytes(1));
  work(&job, 0);
}
#pragma GCC pop_options

uint8_t* qwell::GemmScratch::at_least(int64_t bytes) {
  if (bytes > region_.size()) region_ = Region(bytes, true);
  return region_.data();
}
#endif
