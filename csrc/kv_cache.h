// Keys and values of every layer in pages of 64 tokens; a page of one kv head is drawn in kernels.h.
// Who owns which page is not known here.
#pragma once

#include <cstdint>

#include "memory.h"

namespace qwell {

struct Shape {  // of the model
  int hidden, heads, kv_heads, head_dim, layers, vocab;
};

struct KvCache {  // [layer][page][kv head]
  KvCache(const Shape& shape, int pages, bool int8);
  uint8_t* at(int layer, int page, int head) const;
  // Key or value [head_dim] of the token at `slot` of a page, rounded to the cache's type. In int8 a
  // group with a number that is not finite becomes NaN.
  void write_key(uint8_t* page, int slot, const float* key) const;
  void write_value(uint8_t* page, int slot, const float* value) const;

  Shape shape;
  int pages;
  bool int8;
  Region memory;
};

}  // namespace qwell
