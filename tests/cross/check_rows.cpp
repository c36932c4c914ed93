// The families beside the linear one: quantise, rows, exp, attention, sampling. Inputs are hostile
// rows; scalar says what is wanted.
#include <algorithm>

#include "check.h"
#include "kv_cache.h"

namespace check {

using namespace qwell;
using Floats = std::vector<float>;

Tally check_quantize(const Kernels& kernels) {
  constexpr int k = 256, groups = k / kGroup;
  struct Quantized {
    std::vector<int8_t> q = std::vector<int8_t>(k), rest = q;
    Floats scale = Floats(groups), scaled_sum = scale, rest_scale = scale;
    std::vector<int32_t> sum = std::vector<int32_t>(k / kLanes), rest_sum = sum,
                         loud = std::vector<int32_t>(1 + groups);
  };
  Tally tally;
  Random random(2);
  int louds = 0;
  for (int i = 0; i < 400; i++) {
    Floats x = hostile_row(i / 2, k, random);
    if (i % 2) x[random.below(k)] *= 50;
    Quantized each[2];
    for (int j = 0; j < 2; j++) {
      Quantized& q = each[j];
      (j ? kernels : kScalarKernels)
          .quantize(x.data(), k,
                    {nullptr, nullptr, q.q.data(), q.scale.data(), q.sum.data(), q.scaled_sum.data(), q.loud.data(),
                     q.rest.data(), q.rest_scale.data(), q.rest_sum.data()});
    }
    tally.compare(each[1].q, each[0].q), tally.compare(each[1].rest, each[0].rest);
    tally.compare(each[1].scale, each[0].scale), tally.compare(each[1].sum, each[0].sum);
    tally.compare(each[1].scaled_sum, each[0].scaled_sum), tally.compare(each[1].rest_scale, each[0].rest_scale);
    tally.compare(each[1].rest_sum, each[0].rest_sum), tally.compare(each[1].loud, each[0].loud);
    louds += each[0].loud[0];
  }
  const int32_t some[2] = {louds > 50, 1};
  tally.compare(some, some + 1, 1);
  return tally;
}

// Every 1,021st float there is, infinities and NaN among them.
Tally check_exp(const Kernels& kernels) {
  constexpr int n = 4096;
  constexpr uint64_t step = 1021;
  Tally tally;
  Floats x(n), got(n), want(n);
  const Floats one(n, 1.0f);
  for (uint64_t bits = 0; bits < uint64_t(1) << 32;) {
    for (float& v : x) {
      const uint32_t word = uint32_t(bits);
      std::memcpy(&v, &word, 4);
      bits += step;
    }
    kernels.silu_mul(x.data(), one.data(), n, got.data());
    kScalarKernels.silu_mul(x.data(), one.data(), n, want.data());
    tally.compare(got, want);
  }
  return tally;
}

// All of them over one pair of rows.
static Floats row_ops(const Kernels& kernels, const Floats& a, const Floats& b) {
  const int n = int(a.size());
  Floats out(5 * n + 64, 7.0f);
  kernels.rms_norm(a.data(), b.data(), n, n + 5, 1e-6f, out.data());
  kernels.silu_mul(a.data(), b.data(), n, out.data() + n + 16);
  kernels.add(a.data(), b.data(), n, out.data() + 2 * n + 32);
  float* head = out.data() + 3 * n + 48;
  std::copy(a.begin(), a.end(), head);
  kernels.rope(head, n, b.data(), b.data() + n / 2);
  return out;
}

Tally check_rows(const Kernels& kernels) {
  Tally tally;
  Random random(3);
  for (int n : {2, 16, 18, 34, 64, 96, 130, 898})
    for (int i = 0; i < kTroubles * kTroubles; i++) {
      const Floats a = hostile_row(i, n, random), b = hostile_row(i / kTroubles, n, random);
      tally.compare(row_ops(kernels, a, b), row_ops(kScalarKernels, a, b));
    }
  return tally;
}

// A sequence in a cache, and query rows at its end.
struct Sequence {
  Sequence(int head_dim, int group, int first, int rows, bool int8, Random& random)
      : group(group),
        first(first),
        rows(rows),
        cache({1, 1, 1, head_dim, 32, 32}, (first + rows + kPage - 1) / kPage, bias(head_dim, random), int8) {
    for (int i = 0; i < first + rows; i++) {
      const Floats key = hostile_row(i % 40 ? 0 : i / 40 % 8, head_dim, random);
      cache.write_key(0, i / kPage, 0, i, key.data());
      cache.write_value(0, i / kPage, 0, i, hostile_row(i % 50 ? 0 : i / 50 % 8, head_dim, random).data());
    }
    for (int i = 0; i < cache.pages; i++) pages.push_back(cache.at(0, i, 0));
    for (int r = 0; r < rows; r++) {
      const Floats row = hostile_row(r + first, group * head_dim, random);
      q.insert(q.end(), row.begin(), row.end());
    }
  }
  static KeyBias bias(int head_dim, Random& random) {
    Floats frequencies(head_dim / 2);
    for (int d = 0; d < head_dim / 2; d++) frequencies[d] = std::pow(10000.0f, -2.0f * float(d) / float(head_dim));
    Floats bias = hostile_row(0, head_dim, random), still = bias;
    for (int d = 0; d < head_dim; d += 2) still[d] = 0;
    return {bias, still, frequencies};
  }
  // All rows at once; then the parts of the first row and what they merge to.
  Floats attend(const Kernels& kernels) {
    const int H = cache.shape.head_dim, parts = first / kPart + 1, floats = group * partial_floats(H);
    Floats out(q.size()), scratch((rows + 1) * floats), part(parts * floats), alone(group * H);
    std::vector<uint16_t> unpacked(size_t(kPart) * 2 * H);
    AttentionItem item{q.data(), out.data(), group * H,      pages.data(),       rows,           group, H,
                       first,    cache.int8, scratch.data(), cache.centre(0, 0), unpacked.data()};
    kernels.attention(item);
    item.out = alone.data();
    for (int i = 0; i < parts; i++) kernels.attention_part(item, i, part.data() + i * floats);
    kernels.attention_merge(item, part.data(), parts);
    out.insert(out.end(), alone.begin(), alone.end());
    return out;
  }

  int group, first, rows;
  KvCache cache;
  std::vector<const uint8_t*> pages;
  Floats q;
};

Tally check_attention(const Kernels& kernels, bool int8) {
  Tally tally;
  Random random(4);
  for (int first : {0, 61, 64, 1020, 2046})
    for (int group : {1, 2, 3, 4, 5, 7, 9}) {
      Sequence sequence((const int[]){16, 48, 64, 128}[group % 4], group, first, 6, int8, random);
      tally.compare(sequence.attend(kernels), sequence.attend(kScalarKernels));
    }
  return tally;
}

struct Sampled {
  bool finite = false;
  Floats copy, maxima;
  std::vector<int32_t> weights;
  std::vector<uint64_t> sums, rest;
  double total = 0;
};

static Sampled sample(const Kernels& kernels, const Floats& x, const uint32_t* allow, float scale, int32_t least) {
  const int blocks = int(x.size()) / kBlock;
  Sampled s;
  s.copy.resize(x.size()), s.maxima.resize(blocks), s.sums.resize(blocks);
  s.finite = kernels.take(x.data(), allow, blocks, s.copy.data(), s.maxima.data());
  for (float& top : s.maxima) top += 0.0f;  // which of two zeros is the largest is left open
  const float top = *std::max_element(s.maxima.begin(), s.maxima.end());
  if (!s.finite || top == -INFINITY) return s;
  s.total = kernels.sum_exp(s.copy.data(), blocks, top);
  Floats weighed = s.copy;
  kernels.weigh(weighed.data(), s.maxima.data(), blocks, top, scale, s.sums.data());
  s.weights.resize(x.size());
  std::memcpy(s.weights.data(), weighed.data(), x.size() * sizeof(float));
  s.rest = s.sums;
  kernels.sum_from(s.weights.data(), blocks, least, s.rest.data());
  return s;
}

// Logits: ordinary ones spread as `kind` says, or trouble; -infinity here and there.
static Floats logits(int kind, int n, Random& random) {
  const float spread[] = {1e-6f, 1, 5, 30, 1e30f};
  Floats x = hostile_row(kind % 2 ? kind / 2 : 0, n, random);
  for (float& v : x) v = random.below(50) ? v * spread[kind / 2 % 5] : -INFINITY;
  return x;
}

Tally check_sampling(const Kernels& kernels) {
  constexpr int n = 7 * kBlock;
  Tally tally;
  Random random(5);
  std::vector<uint32_t> allow(n / 32);
  for (int i = 0; i < 400; i++) {
    for (uint32_t& word : allow) word = uint32_t(random.next() & random.next());
    const Floats x = logits(i, n, random);
    const float scale = 1.442695f * random.between(0.01f, 4);
    const int32_t least = random.below(1 << random.below(31));
    const uint32_t* mask = i % 3 ? nullptr : allow.data();
    const Sampled got = sample(kernels, x, mask, scale, least), want = sample(kScalarKernels, x, mask, scale, least);
    const int64_t ends[2] = {got.finite, want.finite};
    tally.compare(ends, ends + 1, 1), tally.compare(&got.total, &want.total, 1);
    tally.compare(got.copy, want.copy), tally.compare(got.weights, want.weights);
    tally.compare(got.sums, want.sums), tally.compare(got.rest, want.rest);
    if (want.finite) tally.compare(got.maxima, want.maxima);
  }
  return tally;
}

}  // namespace check
