// Keys and values of every layer in pages of 64 tokens; a page of one kv head is drawn in kernels.h.
// Who owns which page is not known here.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels.h"
#include "memory.h"

namespace qwell {

struct Shape {  // of the model
  int hidden, heads, kv_heads, head_dim, layers, vocab;
};

// What keys leave out (kernels.h).
struct KeyBias {
  std::vector<float> bias;      // [layers][kv heads][head_dim], of k_proj; empty where there is none
  std::vector<float> still;     // what of it RoPE hardly turns
  std::vector<float> inv_freq;  // [head_dim / 2]
};

// [page / kTogether][layer][kv head][page % kTogether]. Layers close to one another, so that 2 MB pages of memory,
// without which a long context costs a table walk every 4 KB, are full as soon as they are taken; pages of a head side
// by side, for what the CPU itself asks for ahead.
struct KvCache {
  static constexpr int kTogether = 8;
  KvCache(const Shape& shape, int pages, KeyBias bias, bool int8);
  uint8_t* at(int layer, int page, int head) const;
  KeyCentre centre(int layer, int head) const;  // of int8 keys
  // Key or value [head_dim] of a token, rounded to the cache's type. A number that is not finite makes
  // NaN of the whole key, in int8 of its group of a key or value.
  void write_key(int layer, int page, int head, int position, const float* key) const;
  void write_value(int layer, int page, int head, int position, const float* value) const;

  Shape shape;
  int pages;
  bool int8;
  Region memory;

 private:
  size_t of_head(int layer, int head) const { return (size_t(layer) * shape.kv_heads + head) * shape.head_dim; }
  std::vector<float> bias_, still_, page_turns_, slot_turns_;  // KeyCentre
};

}  // namespace qwell
