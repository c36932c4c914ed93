// Packing for gemm_walk.h: corners of a matrix in either order into tiles of 1 KB. Textual, as that is.
#pragma once

#include <cstdint>

#include "gemm.h"

namespace {

using namespace qwell;

constexpr int kTile = 16, kBlock = 32, kStep = 32;  // rows of a tile, of a block, k of a step
constexpr int kTileBytes = 1024, kStepBytes = 2 * kTileBytes;
constexpr int kAhead = 2 * kStep;
constexpr int kChunkSteps = 16;  // of B in L1: 32 KB
constexpr int kDepthSteps = 32;  // of A in L2
constexpr int64_t kResidentB = 32 << 20;

int div_up(int64_t a, int64_t b) { return int((a + b - 1) / b); }

// --- packing: a 16 x 32 corner of a matrix as sixteen registers of sixteen pairs ---------------

// Asks for a line that is packed two steps from now. Assembly, for GCC drops the intrinsic in small
// inline functions.
template <class P>
void ask(const P* p) {
  asm volatile("prefetcht0 %0" ::"m"(*p));
}
// The same, into the second-level cache.
inline void ask_nearer(const uint8_t* p) { asm volatile("prefetcht1 %0" ::"m"(*p)); }
// The same for a line that will be written.
template <class P>
void ask_to_write(P* p) {
  asm volatile("prefetchw %0" ::"m"(*p));
}

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
// Where a step reads: of the first pair or of the second, from k on, with so many k left.
struct Place {
  Place(const Gemm& g, int step) : second(step >= first_steps(g)) {
    k = kStep * (second ? step - first_steps(g) : step), left = (second ? g.k2 : g.k) - k;
  }
  bool second;
  int k, left;
};

// Sixteen rows of A from row m, the 32 k of a step.
void pack_a(const Gemm& g, int m, int step, uint8_t* out) {
  __m512i r[16];
  const Place at(g, step);
  const Bf16Matrix& a = at.second ? g.a2 : g.a;
  const uint16_t* p = a.data + m * a.row + at.k * a.column;
  if (a.column == 1) {
    load_lines(p, a.row, g.m - m, at.left, r);
  } else {
    load_pairs(p, a.column, g.m - m, at.left, r);
    transpose(r);
  }
  store(r, out);
}

// Sixteen columns of B from column n, the 32 k of a step.
void pack_b(const Gemm& g, int n, int step, uint8_t* out) {
  __m512i r[16];
  const Place at(g, step);
  const Bf16Matrix& b = at.second ? g.b2 : g.b;
  const uint16_t* p = b.data + at.k * b.row + n * b.column;
  if (b.row == 1) {
    load_lines(p, b.column, g.n - n, at.left, r);
    transpose(r);
  } else {
    load_pairs(p, b.row, g.n - n, at.left, r);
  }
  store(r, out);
}

}  // namespace
