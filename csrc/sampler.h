// One request's way from logits to tokens: what it asked for, and what its penalties remember.
//
// The rule, which tests/engine/slow_sampler.py states again in NumPy and must meet token for token:
//   1. Logits are changed in float32: bias, repetition penalty (Hugging Face: seen in prompt or
//      reply; divided if positive, else multiplied), then count * frequency + presence taken off
//      (OpenAI), stop ids to -infinity before min_tokens, and ids that the grammar does not allow.
//   2. Temperature 0 takes the largest. Every tie goes to the lowest id.
//   3. top_k keeps the k largest logits. They become weights (kernels.h), integers whose sums are
//      exact, so no order of operations can move a border. min_p keeps weights from
//      min_p * 2^30 on.
//   4. A token is drawn from what is kept in the order of ids: the first whose running sum exceeds
//      floor(bits * sum / 2^53). top_p keeps it if the weights ahead of it (larger, or equal with a
//      lower id) sum to less than top_p of all that top_k kept. If not, the draw is made again from
//      those ahead alone: each draw that fails cuts the rest, so nothing is ever sorted, and a kept
//      token is drawn with exactly its share.
//   5. bits: z = mix(mix(mix(seed) + position) + choice), draw a > 0 uses mix(z + a); the top 53 bits.
//      A number depends on its keys alone, never on the requests beside it.
// Knows no Python and no model.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

#include "kernels.h"

namespace qwell {

struct SamplingRule {  // as SamplingParams has checked them; top_k 0 keeps all
  double temperature, top_p, min_p;
  int top_k;
  float repetition, presence, frequency;
  uint64_t seed, choice;
  int min_tokens;
};

class Sampler {
 public:
  enum Fault : int { NotFinite = -1, NothingLeft = -2 };

  // Chooses from the first `vocab` (1 .. 2^23) logits of a row. Ids from vocab on are ignored.
  Sampler(const SamplingRule& rule, int vocab, const std::vector<int32_t>& prompt,
          std::vector<std::pair<int32_t, float>> bias, std::vector<int32_t> stop_ids);

  int vocab() const { return vocab_; }
  int64_t position() const { return num_prompt_ + num_output_; }
  // The next token or a Fault. `allow`: bit t % 32 of word t / 32, or null. Changes nothing.
  int sample(const float* logits, const uint32_t* allow) const;
  // The reply has this token: counts it.
  void push(int32_t token);

 private:
  struct Seen {
    int32_t token, count;  // count: in the reply
  };
  bool changes() const;
  bool change(struct Logits& row) const;
  int draw(struct Logits& row) const;
  void see(int32_t token, int count);
  uint64_t bits(uint64_t attempt) const;

  SamplingRule rule_;
  const Kernels& kernels_;
  int vocab_;
  int64_t num_prompt_, num_output_ = 0;
  std::vector<std::pair<int32_t, float>> bias_;
  std::vector<int32_t> stop_ids_;
  std::vector<Seen> seen_;
  std::unordered_map<int32_t, int> place_;  // of a token in seen_
};

// The ids of the n largest of x[vocab], largest first, ties to the lowest id. Throws
// std::invalid_argument if one is NaN or +infinity.
std::vector<int32_t> largest(const float* x, int vocab, int n);
// log of the sum of exp(x), over n NaN-free logits, not all -infinity.
double log_sum_exp(const float* x, int n);

}  // namespace qwell
