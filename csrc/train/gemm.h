// Matrix products of training: bf16 operands in either order, float32 sums, bf16 result.
//
// C[m][n] = sum over k of A[m][k] * B[k][n], then over the few k of a second pair, k ascending in blocks of 32
// dots of pairs, then + bias[n], then + the old C if `add`, rounded once to nearest even. Which thread computes a
// tile, and how rows are blocked, never changes a bit. The order inside a pair is the instruction's (TDPBF16PS,
// VDPBF16PS, two fused multiply-adds), so forms differ in last bits of the sums; the first two read and write numbers
// below the smallest normal (1.2e-38) as zeros.
#pragma once

#include <cstdint>

#include "../memory.h"
#include "../team.h"

namespace qwell {

// A matrix in memory: element (i, j) at data[i * row + j * column]; one of the strides is 1.
struct Bf16Matrix {
  const uint16_t* data;
  int64_t row, column;
};

struct Gemm {
  Bf16Matrix a, b;       // [m, k], [k, n]
  const uint16_t* bias;  // [n] or null
  uint16_t* c;           // [m, n], rows `c_row` elements apart
  int64_t c_row;
  int m, n, k;
  bool add;
  Bf16Matrix a2{}, b2{};  // a second pair of operands, [m, k2] and [k2, n]: a low-rank product on top
  int k2 = 0;
  float* sums = nullptr;  // where the result goes unrounded instead of c, rows c_row apart
};

// Memory of one gemm: grows to what the largest asked for, and stays.
class GemmScratch {
 public:
  uint8_t* at_least(int64_t bytes);  // in 2 MB pages where there are any; throws std::bad_alloc

 private:
  Region region_;
};

struct GemmForm {
  void (*team)(Team& team, GemmScratch& scratch, const Gemm& gemm);
  void (*alone)(GemmScratch& scratch, const Gemm& gemm);  // on the calling thread
};
extern const GemmForm kGemmAmx;         // amx_status() == "ok"
extern const GemmForm kGemmAvx512Bf16;  // cpu().avx512_bf16
extern const GemmForm kGemmAvx512;      // cpu().avx512

}  // namespace qwell
