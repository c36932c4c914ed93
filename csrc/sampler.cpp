// The rule of sampler.h over one scratch row: copy, change, cut, weigh, draw. Passes over the whole
// row are kernels; what is here looks at block maxima, block sums and few tokens.
#include "sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>

#include "memory.h"

namespace qwell {

constexpr float kNone = -std::numeric_limits<float>::infinity();
constexpr int32_t kUnit = 1 << kUnitBits;

// A row of logits, later of weights: whole blocks, padded with -infinity. Its memory is kept between
// calls: fresh pages cost more than the arithmetic.
struct Logits {
  Region memory;  // aligned, in huge pages
  float* x = nullptr;
  std::vector<float> maxima;
  std::vector<uint64_t> sums;
  int blocks = 0;

  void resize(int n) {
    blocks = (n + kBlock - 1) / kBlock;
    if (int(maxima.size()) >= blocks) return;
    memory = Region(int64_t(blocks) * kBlock * int64_t(sizeof(float)), true);
    x = reinterpret_cast<float*>(memory.data()), maxima.resize(blocks), sums.resize(blocks);
  }
  // A copy of n logits. False if one, allowed or not, is NaN or +infinity.
  bool take(const Kernels& kernels, const float* logits, const uint32_t* allow, int n) {
    resize(n);
    const int whole = n / kBlock, rest = n % kBlock;
    const bool good = kernels.take(logits, allow, whole, x, maxima.data());
    if (rest == 0) return good;
    float tail[kBlock];
    uint32_t words[kBlock / 32] = {};
    std::fill_n(std::copy_n(logits + whole * kBlock, rest, tail), kBlock - rest, kNone);
    if (allow) std::copy_n(allow + whole * (kBlock / 32), (rest + 31) / 32, words);
    return kernels.take(tail, allow ? words : nullptr, 1, x + whole * kBlock, &maxima[whole]) && good;
  }
  bool retake(const Kernels& kernels, int block) {
    float* at = x + block * kBlock;
    return kernels.take(at, nullptr, 1, at, &maxima[block]);
  }
  float top() const { return *std::max_element(maxima.begin(), maxima.begin() + blocks); }
  int first(float value) const {
    const auto block = std::find(maxima.begin(), maxima.begin() + blocks, value) - maxima.begin();
    return int(std::find(x + block * kBlock, x + (block + 1) * kBlock, value) - x);
  }
  // What stands in x once kernels.weigh has been there.
  const int32_t* weights() const { return reinterpret_cast<const int32_t*>(x); }
  int32_t weight(int i) const { return std::bit_cast<int32_t>(x[i]); }
  uint64_t sum() const { return std::accumulate(sums.begin(), sums.begin() + blocks, uint64_t(0)); }
};

static Logits& scratch(int which) {
  thread_local Logits rows[2];
  return rows[which];
}

// ---- the n largest

struct Picked {
  std::vector<int32_t> ids;  // ascending
  std::vector<float> values;
  // Those above the limit and, in order of ids, the first `equals` that are equal to it.
  void see(int32_t id, float value, float limit, int& equals) {
    if (value > limit || (value == limit && equals-- > 0)) ids.push_back(id), values.push_back(value);
  }
};

static float nth_largest(std::vector<float> values, int n) {
  std::nth_element(values.begin(), values.begin() + (n - 1), values.end(), std::greater<>());
  return values[n - 1];
}

// The n largest, ties to the lowest id; 1 <= n <= logits that are no padding.
static Picked select(const Logits& row, int n) {
  // At least n logits reach the n-th largest maximum; few others do.
  const float bound = n <= row.blocks ? nth_largest({row.maxima.begin(), row.maxima.begin() + row.blocks}, n) : kNone;
  Picked some, best;
  int equals = n;
  for (int b = 0; b < row.blocks; b++) {
    if (row.maxima[b] < bound || (row.maxima[b] == bound && equals <= 0)) continue;
    for (int i = b * kBlock; i < (b + 1) * kBlock; i++) some.see(i, row.x[i], bound, equals);
  }
  const float limit = nth_largest(some.values, n);
  const auto above = [=](float value) { return value > limit; };
  equals = n - int(std::count_if(some.values.begin(), some.values.end(), above));
  for (size_t i = 0; i < some.ids.size(); i++) best.see(some.ids[i], some.values[i], limit, equals);
  return best;
}

std::vector<int32_t> largest(const float* x, int vocab, int n) {
  n = std::min(n, vocab);
  if (n <= 0) return {};
  Logits& row = scratch(0);
  // A NaN has no place in an order: fewer than n would be found.
  if (!row.take(select_kernels(), x, nullptr, vocab)) throw std::invalid_argument("a logit is NaN or +infinity");
  std::vector<int32_t> ids = select(row, n).ids;
  std::stable_sort(ids.begin(), ids.end(), [x](int32_t a, int32_t b) { return x[a] > x[b]; });
  return ids;
}

double log_sum_exp(const float* x, int n) {
  const Kernels& kernels = select_kernels();
  Logits& row = scratch(0);
  row.take(kernels, x, nullptr, n);
  const float top = row.top();
  return double(top) + std::log(kernels.sum_exp(row.x, row.blocks, top));
}

// ---- weights

// What a draw may take: larger weights than `weight`, and equal ones with an id below `id`.
struct Ahead {
  int32_t weight;
  int id;
  bool has(int32_t other, int at) const { return other > weight || (other == weight && at < id); }
};

// Sums what is ahead into the block sums, which are of it and more; gives the whole.
static uint64_t restrict_to(const Kernels& kernels, Logits& row, Ahead ahead) {
  const int middle = std::min(ahead.id / kBlock, row.blocks), behind = middle + 1;
  kernels.sum_from(row.weights(), middle, ahead.weight, row.sums.data());
  if (middle == row.blocks) return row.sum();
  row.sums[middle] = 0;
  for (int i = middle * kBlock; i < behind * kBlock; i++)
    if (ahead.has(row.weight(i), i)) row.sums[middle] += row.weight(i);
  kernels.sum_from(row.weights() + behind * kBlock, row.blocks - behind, ahead.weight + 1, row.sums.data() + behind);
  return row.sum();
}

// The first of those ahead with which their running sum exceeds `goal`, which is below their sum.
static int locate(const Logits& row, Ahead ahead, uint64_t goal) {
  uint64_t before = 0;
  int i = 0;
  for (; before + row.sums[i] <= goal; i++) before += row.sums[i];
  for (i *= kBlock;; i++) {
    if (ahead.has(row.weight(i), i)) before += row.weight(i);
    if (before > goal) return i;
  }
}

// ---- the request

static uint64_t mix(uint64_t z) {  // splitmix64: Steele, Lea, Flood, OOPSLA 2014
  z += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

Sampler::Sampler(const SamplingRule& rule, int vocab, const std::vector<int32_t>& prompt,
                 std::vector<std::pair<int32_t, float>> bias, std::vector<int32_t> stop_ids)
    : rule_(rule),
      kernels_(select_kernels()),
      vocab_(vocab),
      num_prompt_(int64_t(prompt.size())),
      bias_(std::move(bias)),
      stop_ids_(std::move(stop_ids)) {
  const auto unknown = [vocab](int32_t id) { return id < 0 || id >= vocab; };
  std::erase_if(stop_ids_, unknown);
  std::erase_if(bias_, [&](const auto& pair) { return unknown(pair.first); });
  if (rule_.repetition != 1)
    for (int32_t id : prompt) see(id, 0);
}

void Sampler::see(int32_t token, int count) {
  if (token < 0 || token >= vocab_) return;
  const auto [at, fresh] = place_.try_emplace(token, int(seen_.size()));
  if (fresh) seen_.push_back({token, 0});
  seen_[at->second].count += count;
}

void Sampler::push(int32_t token) {
  num_output_++;
  see(token, 1);
}

// Changes single logits. False if one is no longer a number to compare.
bool Sampler::change(Logits& row) const {
  std::vector<bool> touched(row.blocks);
  const auto at = [&](int32_t id) -> float& {
    touched[id / kBlock] = true;
    return row.x[id];
  };
  for (const auto& [id, bias] : bias_) at(id) += bias;
  for (const Seen& seen : seen_) {
    float& x = at(seen.token);
    if (rule_.repetition != 1) x = x > 0 ? x / rule_.repetition : x * rule_.repetition;
    if (seen.count) x -= float(seen.count) * rule_.frequency + rule_.presence;
  }
  if (num_output_ < rule_.min_tokens)
    for (int32_t id : stop_ids_) at(id) = kNone;
  bool good = true;
  for (int b = 0; b < row.blocks; b++)
    if (touched[b]) good &= row.retake(kernels_, b);
  return good;
}

bool Sampler::changes() const {
  return !bias_.empty() || rule_.repetition != 1 || rule_.presence != 0 || rule_.frequency != 0 ||
         num_output_ < rule_.min_tokens;
}

int Sampler::sample(const float* logits, const uint32_t* allow) const {
  Logits& row = scratch(0);
  if (!row.take(kernels_, logits, allow, vocab_)) return NotFinite;
  if (changes() && !change(row)) return NotFinite;
  if (row.top() == kNone) return *std::max_element(logits, logits + vocab_) == kNone ? NotFinite : NothingLeft;
  if (rule_.temperature == 0) return row.first(row.top());
  if (rule_.top_k == 0 || rule_.top_k >= vocab_) return draw(row);
  const Picked picked = select(row, rule_.top_k);
  Logits& few = scratch(1);
  few.take(kernels_, picked.values.data(), nullptr, rule_.top_k);
  return picked.ids[draw(few)];
}

// floor(bits * sum / 2^53) of 53 random bits: a whole number from 0 to sum - 1.
static uint64_t share(uint64_t bits, uint64_t sum) {
  __extension__ using Wide = unsigned __int128;
  return uint64_t(Wide(bits) * sum >> 53);
}

uint64_t Sampler::bits(uint64_t attempt) const {
  const uint64_t z = mix(mix(mix(rule_.seed) + uint64_t(position())) + rule_.choice);
  return (attempt ? mix(z + attempt) : z) >> 11;
}

// The place of a token, drawn from logits that become weights. See steps 3 to 5 of sampler.h.
int Sampler::draw(Logits& row) const {
  const float scale = float(1.4426950408889634 / rule_.temperature);
  kernels_.weigh(row.x, row.maxima.data(), row.blocks, row.top(), scale, row.sums.data());
  uint64_t sum = row.sum();
  const double goal = rule_.top_p * double(sum);
  const int32_t least = int32_t(std::ceil(rule_.min_p * kUnit));
  Ahead ahead{std::max(least, 1), std::numeric_limits<int>::max()};
  if (least > 1) sum = restrict_to(kernels_, row, ahead);
  for (uint64_t attempt = 0;; attempt++) {
    const int at = locate(row, ahead, share(bits(attempt), sum));
    if (rule_.top_p == 1) return at;
    ahead = {row.weight(at), at};
    sum = restrict_to(kernels_, row, ahead);
    if (double(sum) < goal) return at;
  }
}

}  // namespace qwell
