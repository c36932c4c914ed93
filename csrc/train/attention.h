// Causal attention of one sequence and one key head, forward and backward, for training.
//
// Products by gemm.h with float32 scores; the query heads of a group come one after another, their
// queries in blocks of 128 that see the keys up to their own end. The forward pass keeps the
// logarithm of each row's sum, from which the backward pass makes the probabilities again
// (arXiv:2205.14135). Probabilities and their gradients are rounded to bf16 for the products.
#pragma once

#include <cstdint>
#include <vector>

#include "forms.h"

namespace qwell {

// Rows of all tensors belong to one sequence; head h of row t is at t * row + h * head_dim.
struct AttentionJob {
  const uint16_t *q, *k, *v;
  int64_t q_row, kv_row;
  int rows, head_dim, group;  // query heads of this key head; q, out, lse start at the first
  uint16_t* out;              // as q
  float* lse;                 // [rows][heads of all], lse_row apart
  int64_t lse_row;
  // backward only
  const uint16_t* grad_out;
  uint16_t *grad_q, *grad_k, *grad_v;
};

// Memory of one thread; grows and stays.
struct AttentionScratch {
  GemmScratch gemm;
  std::vector<float> scores, slopes, sums;
  std::vector<uint16_t> p, ds;
};

void attention_forward(const TrainForm& form, AttentionScratch& scratch, const AttentionJob& job);
void attention_backward(const TrainForm& form, AttentionScratch& scratch, const AttentionJob& job);

}  // namespace qwell
