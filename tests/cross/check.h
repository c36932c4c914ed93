// What the parts of the check share: hostile numbers, and comparing floats by their bits.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels.h"

namespace check {

// SplitMix64: the same numbers on every machine.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
  }
  int below(int n) { return int(next() % uint64_t(n)); }
  float between(float lo, float hi) { return lo + (hi - lo) * float(next() >> 40) * 0x1p-24f; }
  float sign() { return next() & 1 ? 1.0f : -1.0f; }

 private:
  uint64_t state_;
};

inline constexpr int kTroubles = 10;
// A row of `n` numbers in trouble number `kind`: ordinary, ends of the int8 range, a giant in every
// group, denormals, -0, the borders of the smallest scale, overflow, ties of rounding, infinity, NaN.
std::vector<float> hostile_row(int kind, int n, Random& random);

// Counts what was compared and what differs. Every NaN is the same NaN; 0 is not -0.
struct Tally {
  int64_t values = 0, different = 0;

  template <class T>
  void compare(const T* got, const T* want, int64_t n) {
    values += n;
    for (int64_t i = 0; i < n; i++) different += !same(got[i], want[i]);
  }
  template <class T>
  void compare(const std::vector<T>& got, const std::vector<T>& want) {
    compare(got.data(), want.data(), int64_t(want.size()));
  }

 private:
  static bool same(float a, float b) {
    if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b);
    return std::memcmp(&a, &b, sizeof a) == 0;
  }
  template <class T>
  static bool same(T a, T b) {
    return a == b;
  }
};

// Each compares kernels with the scalar ones over everything it can think of.
Tally check_linear(const qwell::Kernels& kernels);
Tally check_quantize(const qwell::Kernels& kernels);
Tally check_exp(const qwell::Kernels& kernels);  // through silu_mul
Tally check_rows(const qwell::Kernels& kernels);
Tally check_attention(const qwell::Kernels& kernels, bool int8);
Tally check_sampling(const qwell::Kernels& kernels);

}  // namespace check
