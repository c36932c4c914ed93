// What training does to rows beside products: forward and backward of the elementwise ops, the loss
// of one row of logits, one slab of AdamW. Stored in bf16, computed in float32; no thread here.
//
// A backward function writes the gradient of its inputs from `grad`. Formulas as in
// qwell/train/functions.py and optim.py, which are the slow twins.
#pragma once

#include <cstdint>

namespace qwell {

struct AdamW {
  float beta1, beta2, eps, decay, lr, grad_scale;  // decay: 1 - lr * weight decay
  float correct1, correct2;                        // 1 - beta^step
  uint64_t seed;                                   // of stochastic rounding, for this step and tensor
};

// Moments of one parameter, and the lower halves of its master: null where there is none.
struct AdamWState {
  float *m, *v;
  uint8_t *m8, *v8;
  float *m_scale, *v_scale;
  int16_t* low;
};

struct TrainRows {
  // y = x * rstd * weight, rstd = 1 / sqrt(mean(x^2) + eps)
  void (*norm)(const uint16_t* x, const uint16_t* weight, int n, float eps, uint16_t* y, float* rstd);
  void (*norm_wide)(const float* x, const uint16_t* weight, int n, float eps, uint16_t* y, float* rstd);
  // grad_x, and grad_weight [n] added up where it is not null
  void (*norm_back)(const uint16_t* grad, const uint16_t* x, const uint16_t* weight, int n, float rstd,
                    uint16_t* grad_x, float* grad_weight);
  void (*norm_wide_back)(const uint16_t* grad, const float* x, const uint16_t* weight, int n, float rstd, float* grad_x,
                         float* grad_weight);
  // heads of one row, [heads][2 * half]; sign -1 turns back
  void (*rope)(const float* x, const float* cos, const float* sin, int heads, int half, float sign, float* y);
  void (*silu_mul)(const uint16_t* gate, const uint16_t* up, int64_t n, uint16_t* y);
  // also gives what it was called with, rounded
  void (*silu_mul_wide)(const float* gate, const float* up, int64_t n, uint16_t* y, uint16_t* gate16, uint16_t* up16);
  void (*silu_mul_back)(const uint16_t* grad, const uint16_t* gate, const uint16_t* up, int64_t n, uint16_t* grad_gate,
                        uint16_t* grad_up);
  void (*silu_mul_wide_back)(const uint16_t* grad, const uint16_t* gate, const uint16_t* up, int64_t n,
                             float* grad_gate, float* grad_up);
  // -log p(target); if scale is not 0, grad = scale * (softmax - one-hot), which may start where the
  // logits do
  float (*cross_entropy)(const float* logits, int n, int target, float scale, uint16_t* grad);
  // one row of packed integers: out[i] = scale[i / group] * (code[i] - zero) - minimum[i / group];
  // bits 8: a byte a code; 4: of 32 codes the first sixteen in low nibbles. group is a multiple of 16
  void (*dequantise)(const uint8_t* codes, const float* scale, const float* minimum, int bits, int zero, int group,
                     int n, uint16_t* out);
  // One row of attention over `n` keys of which the first `visible` count: p = softmax(scale * scores)
  // in bf16, zero behind them. Gives log(sum(exp(scale * scores))).
  float (*softmax)(const float* scores, int visible, int n, float scale, uint16_t* p);
  // p again from lse, and ds = scale * p * (slopes - sum(grad * out)), the gradient of the scores.
  void (*softmax_back)(const float* scores, const float* slopes, const uint16_t* grad, const uint16_t* out,
                       int head_dim, int visible, int n, float scale, float lse, uint16_t* p, uint16_t* ds);
  void (*round)(const float* x, int64_t n, uint16_t* y);
  double (*square_sum)(const uint16_t* x, int64_t n);
  // elements [begin, end) of a parameter; begin is a multiple of 256, so is end unless it is the last
  void (*adamw)(const AdamW& step, const AdamWState& state, uint16_t* weight, const uint16_t* grad, int64_t begin,
                int64_t end);
};

extern const TrainRows kTrainRowsAvx512;      // cpu().avx512
extern const TrainRows kTrainRowsAvx512Bf16;  // cpu().avx512_bf16

}  // namespace qwell
