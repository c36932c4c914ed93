// The attention family over V's sixteen lanes: paged bf16 keys and values, all query heads of a
// group together, blocks of 64 keys in ascending order. Formula: kernels.h.
#pragma once

#include "rows.h"

namespace {

using namespace qwell;

inline constexpr int kVectors = kPage / kLanes;  // key vectors of a block

// What is carried from block to block for up to four query heads of one row.
struct Running {
  float top[4], sum[4];
};

// scores[head][key] of one block; keys lie transposed, [H][64].
template <int N>
inline void block_scores(const float* q, int head_dim, const uint16_t* keys, float scale, float (*scores)[kPage]) {
  V::F acc[N][kVectors];
  for (int n = 0; n < N; n++)
    for (int j = 0; j < kVectors; j++) acc[n][j] = V::set1(0.0f);
  for (int d = 0; d < head_dim; d++)
    for (int j = 0; j < kVectors; j++) {
      V::F key = V::load_bf16(keys + d * kPage + j * kLanes);
      for (int n = 0; n < N; n++) acc[n][j] = V::fma(V::set1(q[n * head_dim + d]), key, acc[n][j]);
    }
  for (int n = 0; n < N; n++)
    for (int j = 0; j < kVectors; j++) V::store(scores[n] + j * kLanes, V::mul(acc[n][j], V::set1(scale)));
}

// exp of the visible scores against the new maximum, in place; 0 behind them. Gives the factor
// that rescales what was gathered before.
inline float block_softmax(float* scores, int visible, float& top, float& sum) {
  for (int i = visible; i < kPage; i++) scores[i] = 0.0f;
  V::F not_finite = V::set1(0.0f);  // stays 0 while every visible score is finite
  for (int j = 0; j < kVectors; j++) not_finite = V::fma(V::load(scores + j * kLanes), V::set1(0.0f), not_finite);
  for (int i = visible; i < kPage; i++) scores[i] = -INFINITY;
  V::F most = V::load(scores);
  for (int j = 1; j < kVectors; j++) most = V::max(most, V::load(scores + j * kLanes));
  const float block = V::hmax(most), next = block > top ? block : top;
  alignas(64) float one[kLanes];
  V::store(one, exp16(V::set1(top - next)));  // the first block: exp(-inf) = 0
  V::F total = V::set1(0.0f);
  for (int j = 0; j < kVectors; j++) {
    V::F p = exp16(V::sub(V::load(scores + j * kLanes), V::set1(next)));
    V::store(scores + j * kLanes, p);
    total = V::add(total, p);
  }
  top = next;
  sum = std::fma(sum, one[0], V::sum(total));
  if (V::sum(not_finite) != 0.0f) sum = NAN;
  return one[0];
}

// out[head][d] = out * factor + sum over visible keys of p * value, for J vectors of d; values lie
// [64][H] and start at the first d.
template <int N, int J>
inline void block_values(const float (*p)[kPage], int visible, const uint16_t* values, int head_dim,
                         const float* factor, float* out) {
  V::F acc[N][J];
  for (int n = 0; n < N; n++)
    for (int j = 0; j < J; j++) acc[n][j] = V::mul(V::load(out + n * head_dim + j * kLanes), V::set1(factor[n]));
  for (int key = 0; key < visible; key++)
    for (int j = 0; j < J; j++) {
      V::F v = V::load_bf16(values + key * head_dim + j * kLanes);
      for (int n = 0; n < N; n++) acc[n][j] = V::fma(V::set1(p[n][key]), v, acc[n][j]);
    }
  for (int n = 0; n < N; n++)
    for (int j = 0; j < J; j++) V::store(out + n * head_dim + j * kLanes, acc[n][j]);
}

template <int N>
inline void attend_heads(const AttentionItem& item, const float* q, float* out, int keys) {
  const int H = item.head_dim;
  const float scale = 1.0f / std::sqrt(float(H));
  alignas(64) float scores[N][kPage], factor[N], gathered[N * kMaxHeadDim];
  Running run;
  for (int n = 0; n < N; n++) run.top[n] = -INFINITY, run.sum[n] = 0.0f;
  std::memset(gathered, 0, sizeof gathered);
  for (int b = 0; b * kPage < keys; b++) {
    const uint16_t* page = item.pages[b];
    const int visible = keys - b * kPage < kPage ? keys - b * kPage : kPage;
    block_scores<N>(q, H, page, scale, scores);
    for (int n = 0; n < N; n++) factor[n] = block_softmax(scores[n], visible, run.top[n], run.sum[n]);
    const uint16_t* values = page + H * kPage;
    int d = 0;
    for (; d + 2 * kLanes <= H; d += 2 * kLanes)
      block_values<N, 2>(scores, visible, values + d, H, factor, gathered + d);
    if (d < H) block_values<N, 1>(scores, visible, values + d, H, factor, gathered + d);
  }
  for (int n = 0; n < N; n++)
    for (int d = 0; d < H; d += kLanes)
      V::store(out + n * H + d, V::div(V::load(gathered + n * H + d), V::set1(run.sum[n])));
}

void attention(const AttentionItem& item) {
  for (int r = 0; r < item.rows; r++) {
    const int keys = item.first_position + r + 1;
    for (int head = 0; head < item.group; head += 4) {
      const float* q = item.q + r * item.stride + head * item.head_dim;
      float* out = item.out + r * item.stride + head * item.head_dim;
      switch (item.group - head) {
        case 1: attend_heads<1>(item, q, out, keys); break;
        case 2: attend_heads<2>(item, q, out, keys); break;
        case 3: attend_heads<3>(item, q, out, keys); break;
        default: attend_heads<4>(item, q, out, keys);
      }
    }
  }
}

}  // namespace
