// The attention family over V's sixteen lanes: paged bf16 keys and values, all query heads of a
// group together, blocks of 64 keys in ascending order, parts of 1,024. Formula: kernels.h.
#pragma once

#include "kv8.h"
#include "rows.h"

namespace {

using namespace qwell;

inline constexpr int kVectors = kPage / kLanes;  // key vectors of a block

// scores[head][key] of one block; keys lie as [H / 2][64][2]. Meanwhile the page `next`, keys and
// values, comes closer.
template <int N>
inline void block_scores(const float* q, int head_dim, const uint16_t* keys, const uint16_t* next, float scale,
                         float (*scores)[kPage]) {
  constexpr int J = V::kWide;
  for (int j0 = 0; j0 < kVectors; j0 += J) {
    V::F acc[N][J];
    for (int n = 0; n < N; n++)
      for (int j = 0; j < J; j++) acc[n][j] = V::set1(0.0f);
    for (int d = 0; d < head_dim; d += 2)
      for (int j = 0; j < J; j++) {
        const int at = d * kPage + (j0 + j) * 2 * kLanes;
        V::prefetch(next + 2 * at), V::prefetch(next + 2 * at + 2 * kLanes);
        const V::F even = V::even_bf16(keys + at), odd = V::odd_bf16(keys + at);
        for (int n = 0; n < N; n++) acc[n][j] = V::fma(V::set1(q[n * head_dim + d]), even, acc[n][j]);
        for (int n = 0; n < N; n++) acc[n][j] = V::fma(V::set1(q[n * head_dim + d + 1]), odd, acc[n][j]);
      }
    for (int n = 0; n < N; n++)
      for (int j = 0; j < J; j++) V::store(scores[n] + (j0 + j) * kLanes, V::mul(acc[n][j], V::set1(scale)));
  }
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
// as [32][H][2] and start at the first d. What is not visible is not read: it may be anything.
template <int N, int J>
inline void block_values(const float (*p)[kPage], int visible, const uint16_t* values, int head_dim,
                         const float* factor, float* out) {
  V::F acc[N][J];
  for (int n = 0; n < N; n++)
    for (int j = 0; j < J; j++) acc[n][j] = V::mul(V::load(out + n * head_dim + j * kLanes), V::set1(factor[n]));
  for (int key = 0; key < visible; key += 2)
    for (int j = 0; j < J; j++) {
      const uint16_t* pair = values + key * head_dim + j * 2 * kLanes;
      const V::F even = V::even_bf16(pair), odd = V::odd_bf16(pair);
      for (int n = 0; n < N; n++) acc[n][j] = V::fma(V::set1(p[n][key]), even, acc[n][j]);
      if (key + 1 == visible) continue;
      for (int n = 0; n < N; n++) acc[n][j] = V::fma(V::set1(p[n][key + 1]), odd, acc[n][j]);
    }
  for (int n = 0; n < N; n++)
    for (int j = 0; j < J; j++) V::store(out + n * head_dim + j * kLanes, acc[n][j]);
}

// One head over some keys: the largest score, the sum of exp(score - top), and that sum with values.
struct Partial {
  float* out;  // [H], then top and sum
  int H;
  float& top() const { return out[H]; }
  float& sum() const { return out[H + 1]; }
};

// `total` takes up `part`; an empty total has top -inf and zeros.
inline void merge(const Partial& total, const Partial& part) {
  const float next = part.top() > total.top() ? part.top() : total.top();
  alignas(64) float a[kLanes], b[kLanes];
  V::store(a, exp16(V::set1(total.top() - next)));
  V::store(b, exp16(V::set1(part.top() - next)));
  total.sum() = std::fma(total.sum(), a[0], part.sum() * b[0]);
  for (int d = 0; d < total.H; d += kLanes)
    V::store(total.out + d,
             V::fma(V::load(total.out + d), V::set1(a[0]), V::mul(V::load(part.out + d), V::set1(b[0]))));
  total.top() = next;
}

inline void normalize(const Partial& total, float* out) {
  for (int d = 0; d < total.H; d += kLanes) V::store(out + d, V::div(V::load(total.out + d), V::set1(total.sum())));
}

inline void clear(const Partial& p) {
  std::memset(p.out, 0, p.H * sizeof(float));
  p.top() = -INFINITY, p.sum() = 0.0f;
}

// The pages of one part in bf16, and the one behind them, which the caches may fetch meanwhile.
struct PartPages {
  const uint16_t* at[kPart / kPage + 1];
};

inline const uint16_t* open_page(const AttentionItem& item, int block, int slot) {
  if (!item.int8) return reinterpret_cast<const uint16_t*>(item.pages[block]);
  uint16_t* page = item.unpacked + int64_t(slot) * 2 * item.head_dim * kPage;
  unpack_kv(item.pages[block], item.centre, block, item.head_dim, page);
  return page;
}

// Of the keys 0 .. keys - 1 those of one part.
inline PartPages open_part(const AttentionItem& item, int keys, int part) {
  const int first = part * (kPart / kPage), blocks = (keys - 1) / kPage + 1;
  const int count = blocks - first < kPart / kPage ? blocks - first : kPart / kPage;
  PartPages pages;
  for (int i = 0; i < count; i++) pages.at[i] = open_page(item, first + i, i);
  const bool more = !item.int8 && first + count < blocks;
  pages.at[count] = more ? open_page(item, first + count, 0) : pages.at[count - 1];
  return pages;
}

// N heads of one row over the keys of one part, into `to` (partial_floats(H) a head).
template <int N>
inline void attend_part(const AttentionItem& item, const PartPages& pages, const float* q, int keys, int part,
                        float* to) {
  const int H = item.head_dim;
  const float scale = 1.0f / std::sqrt(float(H));
  alignas(64) float scores[N][kPage], factor[N], gathered[N * kMaxHeadDim];
  float top[N], sum[N];
  for (int n = 0; n < N; n++) top[n] = -INFINITY, sum[n] = 0.0f;
  std::memset(gathered, 0, N * H * sizeof(float));
  const int end = keys < (part + 1) * kPart ? keys : (part + 1) * kPart;
  for (int at = part * kPart; at < end; at += kPage) {
    const uint16_t* const* page = pages.at + at % kPart / kPage;
    const int visible = end - at < kPage ? end - at : kPage;
    block_scores<N>(q, H, page[0], at + kPage < keys ? page[1] : page[0], scale, scores);
    for (int n = 0; n < N; n++) factor[n] = block_softmax(scores[n], visible, top[n], sum[n]);
    const uint16_t* values = page[0] + H * kPage;
    int d = 0;
    for (; d + 2 * kLanes <= H; d += 2 * kLanes)
      block_values<N, 2>(scores, visible, values + 2 * d, H, factor, gathered + d);
    if (d < H) block_values<N, 1>(scores, visible, values + 2 * d, H, factor, gathered + d);
  }
  for (int n = 0; n < N; n++) {
    const Partial p{to + n * partial_floats(H), H};
    std::memcpy(p.out, gathered + n * H, H * sizeof(float));
    p.top() = top[n], p.sum() = sum[n];
  }
}

// All heads of the group of row r over one part.
inline void attend_group(const AttentionItem& item, const PartPages& pages, int r, int part, float* to) {
  const int keys = item.first_position + r + 1;
  constexpr int most = V::kHeads;
  for (int head = 0; head < item.group; head += most) {
    const float* q = item.q + r * item.stride + head * item.head_dim;
    float* at = to + head * partial_floats(item.head_dim);
    switch (item.group - head < most ? item.group - head : most) {
      case 1: attend_part<1>(item, pages, q, keys, part, at); break;
      case 2: attend_part<2>(item, pages, q, keys, part, at); break;
      case 3: attend_part<3>(item, pages, q, keys, part, at); break;
      case 4: attend_part<4>(item, pages, q, keys, part, at); break;
      case 5: attend_part < most<5 ? most : 5>(item, pages, q, keys, part, at); break;
      case 6: attend_part < most<6 ? most : 6>(item, pages, q, keys, part, at); break;
      case 7: attend_part < most<7 ? most : 7>(item, pages, q, keys, part, at); break;
      default: attend_part<most>(item, pages, q, keys, part, at);
    }
  }
}

// The row's totals take up its heads' results of one part.
inline void merge_group(const AttentionItem& item, float* totals, const float* part) {
  const int H = item.head_dim, step = partial_floats(H);
  for (int head = 0; head < item.group; head++)
    merge({totals + head * step, H}, {const_cast<float*>(part) + head * step, H});
}

inline void clear_group(const AttentionItem& item, float* totals) {
  for (int head = 0; head < item.group; head++) clear({totals + head * partial_floats(item.head_dim), item.head_dim});
}

inline void normalize_group(const AttentionItem& item, float* totals, int r) {
  const int H = item.head_dim;
  for (int head = 0; head < item.group; head++)
    normalize({totals + head * partial_floats(H), H}, item.out + r * item.stride + head * H);
}

void attention_part(const AttentionItem& item, int part, float* to) {
  attend_group(item, open_part(item, item.first_position + 1, part), 0, part, to);
}

void attention_merge(const AttentionItem& item, const float* parts, int count) {
  clear_group(item, item.scratch);
  for (int part = 0; part < count; part++)
    merge_group(item, item.scratch, parts + int64_t(part) * item.group * partial_floats(item.head_dim));
  normalize_group(item, item.scratch, 0);
}

// Part by part, so that its keys and values are near for all rows.
void attention(const AttentionItem& item) {
  const int step = item.group * partial_floats(item.head_dim), keys = item.first_position + item.rows;
  float* result = item.scratch + item.rows * step;
  for (int r = 0; r < item.rows; r++) clear_group(item, item.scratch + r * step);
  for (int part = 0; part * kPart < keys; part++) {
    const PartPages pages = open_part(item, keys, part);
    for (int r = 0; r < item.rows; r++) {
      if (item.first_position + r < part * kPart) continue;
      attend_group(item, pages, r, part, result);
      merge_group(item, item.scratch + r * step, result);
    }
  }
  for (int r = 0; r < item.rows; r++) normalize_group(item, item.scratch + r * step, r);
}

}  // namespace
