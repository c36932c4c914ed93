#if defined(__x86_64__)
#include "attention.h"

#include <algorithm>
#include <cmath>

namespace qwell {
namespace {

constexpr int kBlock = 128;  // queries that share their last key

template <class T>
T* at_least(std::vector<T>& memory, int64_t size) {
  if (int64_t(memory.size()) < size) memory.resize(size);
  return memory.data();
}

// c [m, n] = a [m, k] * b [k, n]; strides of each operand along its two axes.
struct Operand {
  const uint16_t* data;
  int64_t row, column;
};
Gemm gemm(Operand a, Operand b, int m, int n, int k) {
  return {{a.data, a.row, a.column}, {b.data, b.row, b.column}, nullptr, nullptr, n, m, n, k, false};
}

}  // namespace

void attention_forward(const TrainForm& form, AttentionScratch& s, const AttentionJob& j) {
  const float scale = 1 / std::sqrt(float(j.head_dim));
  float* scores = at_least(s.scores, int64_t(kBlock) * j.rows);
  uint16_t* p = at_least(s.p, int64_t(kBlock) * j.rows);
  for (int h = 0; h < j.group; h++)
    for (int lo = 0; lo < j.rows; lo += kBlock) {
      const int n = std::min(kBlock, j.rows - lo), keys = lo + n;
      const int64_t q = lo * j.q_row + h * j.head_dim;
      Gemm score = gemm({j.q + q, j.q_row, 1}, {j.k, 1, j.kv_row}, n, keys, j.head_dim);
      score.sums = scores;
      form.gemm.alone(s.gemm, score);
      for (int r = 0; r < n; r++)
        j.lse[(lo + r) * j.lse_row + h] =
            form.rows.softmax(scores + int64_t(r) * keys, lo + r + 1, keys, scale, p + int64_t(r) * keys);
      Gemm mix = gemm({p, keys, 1}, {j.v, j.kv_row, 1}, n, j.head_dim, keys);
      mix.c = j.out + q, mix.c_row = j.q_row;
      form.gemm.alone(s.gemm, mix);
    }
}

void attention_backward(const TrainForm& form, AttentionScratch& s, const AttentionJob& j) {
  const float scale = 1 / std::sqrt(float(j.head_dim));
  const int64_t most = int64_t(kBlock) * j.rows, whole = int64_t(j.rows) * j.head_dim;
  float *scores = at_least(s.scores, most), *slopes = at_least(s.slopes, most), *sums = at_least(s.sums, 2 * whole);
  uint16_t *p = at_least(s.p, most), *ds = at_least(s.ds, most);
  std::fill_n(sums, 2 * whole, 0.0f);
  for (int h = 0; h < j.group; h++)
    for (int lo = 0; lo < j.rows; lo += kBlock) {
      const int n = std::min(kBlock, j.rows - lo), keys = lo + n;
      const int64_t at = lo * j.q_row + h * j.head_dim;
      const Operand q{j.q + at, j.q_row, 1}, grad{j.grad_out + at, j.q_row, 1};
      Gemm score = gemm(q, {j.k, 1, j.kv_row}, n, keys, j.head_dim);
      score.sums = scores;
      form.gemm.alone(s.gemm, score);
      Gemm slope = gemm(grad, {j.v, 1, j.kv_row}, n, keys, j.head_dim);
      slope.sums = slopes;
      form.gemm.alone(s.gemm, slope);
      for (int r = 0; r < n; r++) {
        const int64_t row = at + r * j.q_row, to = int64_t(r) * keys;
        form.rows.softmax_back(scores + to, slopes + to, j.grad_out + row, j.out + row, j.head_dim, lo + r + 1, keys,
                               scale, j.lse[(lo + r) * j.lse_row + h], p + to, ds + to);
      }
      Gemm to_v = gemm({p, 1, keys}, grad, keys, j.head_dim, n);
      to_v.sums = sums, to_v.add = true;
      form.gemm.alone(s.gemm, to_v);
      Gemm to_k = gemm({ds, 1, keys}, q, keys, j.head_dim, n);
      to_k.sums = sums + whole, to_k.add = true;
      form.gemm.alone(s.gemm, to_k);
      Gemm to_q = gemm({ds, keys, 1}, {j.k, j.kv_row, 1}, n, j.head_dim, keys);
      to_q.c = j.grad_q + at, to_q.c_row = j.q_row;
      form.gemm.alone(s.gemm, to_q);
    }
  for (int r = 0; r < j.rows; r++) {
    form.rows.round(sums + int64_t(r) * j.head_dim, j.head_dim, j.grad_v + r * j.kv_row);
    form.rows.round(sums + whole + int64_t(r) * j.head_dim, j.head_dim, j.grad_k + r * j.kv_row);
  }
}

}  // namespace qwell
#endif
