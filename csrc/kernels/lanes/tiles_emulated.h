// T in plain loops over V: tiles are memory of the thread, the dot is the one the makers of AMX
// document (formula: kernels.h). For tests of everything above the tile instructions.
#pragma once

#include <cstdint>
#include <cstring>

namespace {

struct T {
  static void begin() {}
  static void end() {}

  template <int t>
  static void zero() {
    std::memset(tile(t), 0, 1024);
  }
  template <int t>
  static void load(const void* p, int64_t stride) {
    for (int i = 0; i < 16; i++) std::memcpy(tile(t) + 64 * i, static_cast<const uint8_t*>(p) + i * stride, 64);
  }
  template <int t>
  static void stream(const void* p, int64_t stride) {
    load<t>(p, stride);
  }
  template <int t>
  static void store(void* p, int64_t stride) {
    for (int i = 0; i < 16; i++) std::memcpy(static_cast<uint8_t*>(p) + i * stride, tile(t) + 64 * i, 64);
  }
  template <int c, int a, int b>
  static void dot() {
    multiply(reinterpret_cast<float*>(tile(c)), tile(a), tile(b));
  }
 private:
  static uint8_t* tile(int t) {
    alignas(64) static thread_local uint8_t memory[8][1024];
    return memory[t];
  }
  // Zero for what is below the smallest normal number. (The hardware looks at the result as if its
  // exponent had no end: a result that only rounding lifts to 2^-126 is 0 there, not here.)
  static V::F flush(V::F x) { return V::zero_below(V::abs(x), 0x1p-126f, x); }

  // 32 bf16 as floats: those at even places, then those at odd.
  static void widen(const uint8_t* row, float* even, float* odd) {
    uint32_t pair[16], low[16], high[16];
    std::memcpy(pair, row, 64);
    for (int i = 0; i < 16; i++) low[i] = pair[i] << 16, high[i] = pair[i] & 0xffff0000;
    std::memcpy(even, low, 64), std::memcpy(odd, high, 64);
    V::store(even, flush(V::load(even))), V::store(odd, flush(V::load(odd)));
  }
  static void multiply(float* c, const uint8_t* a, const uint8_t* b) {
    alignas(64) float b_even[16][16], b_odd[16][16], a_even[16], a_odd[16];
    for (int p = 0; p < 16; p++) widen(b + 64 * p, b_even[p], b_odd[p]);
    for (int m = 0; m < 16; m++, c += 16) {
      widen(a + 64 * m, a_even, a_odd);
      V::F even = V::set1(0.0f), odd = V::set1(0.0f);
      for (int p = 0; p < 16; p++) {
        even = flush(V::fma(V::set1(a_even[p]), V::load(b_even[p]), even));
        odd = flush(V::fma(V::set1(a_odd[p]), V::load(b_odd[p]), odd));
      }
      V::store(c, flush(V::add(flush(V::load(c)), flush(V::add(even, odd)))));
    }
  }
};

}  // namespace
