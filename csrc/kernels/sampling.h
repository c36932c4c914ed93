// The sampling family over V's sixteen lanes: rows of logits in blocks of 128. Formulas: kernels.h.
#pragma once

#include <cfloat>
#include <cmath>

#include "../kernels.h"
#include "rows.h"

namespace {

using namespace qwell;

bool take(const float* x, const uint32_t* allow, int blocks, float* copy, float* maxima) {
  const V::F zero = V::set1(0.0f), low = V::set1(-FLT_MAX);
  V::F bad = zero;
  for (int b = 0; b < blocks; b++) {
    V::F top = V::set1(-INFINITY);
    for (int i = b * kBlock; i < (b + 1) * kBlock; i += kLanes) {
      V::F v = V::load(x + i);
      // x * 0 is 0 for a finite x, and NaN for NaN and infinity; -infinity is a logit like others.
      bad = V::add(bad, V::mul(V::max(low, v), zero));
      if (allow) v = V::allow(v, uint16_t(allow[i / 32] >> i % 32));
      V::store(copy + i, v);
      top = V::max(top, v);
    }
    maxima[b] = V::hmax(top);
  }
  return V::sum(bad) == 0.0f;
}

void weigh(float* x, const float* maxima, int blocks, float top, float scale, uint64_t* sums) {
  const V::F tops = V::set1(top), scales = V::set1(scale), least = V::set1(-float(kUnitBits) - 2);
  int32_t* weights = reinterpret_cast<int32_t*>(x);
  for (int b = 0; b < blocks; b++) {
    V::W sum = V::zerow();
    // Below half a unit every weight of the block is 0: the sum alone says so.
    const bool any = (maxima[b] - top) * scale >= -float(kUnitBits) - 1.5f;
    for (int i = b * kBlock; any && i < (b + 1) * kBlock; i += 2 * kLanes) {
      V::I pair[2];
      for (int j = 0; j < 2; j++) {
        V::F y = V::max(V::mul(V::sub(V::load(x + i + j * kLanes), tops), scales), least);
        V::F n = V::round(y), f = V::sub(y, n);
        V::F p = V::set1(0.0013264727f);
        p = V::fma(p, f, V::set1(0.009671513f));
        p = V::fma(p, f, V::set1(0.055507336f));
        p = V::fma(p, f, V::set1(0.24022242f));
        p = V::fma(p, f, V::set1(0.693147f));
        p = V::fma(p, f, V::set1(1.0f));
        pair[j] = V::to_int(V::scale2(V::mul(p, V::set1(float(1 << kUnitBits))), n));
        V::storei(weights + i + j * kLanes, pair[j]);
      }
      sum = V::addw(sum, V::addi(pair[0], pair[1]));
    }
    sums[b] = V::sumw(sum);
  }
}

void sum_from(const int32_t* weights, int blocks, int32_t least, uint64_t* sums) {
  const V::I leasts = V::set1i(least);
  for (int b = 0; b < blocks; b++) {
    if (sums[b] == 0) continue;
    V::W sum = V::zerow();
    for (int i = b * kBlock; i < (b + 1) * kBlock; i += 2 * kLanes)
      sum = V::addw(sum, V::addi(V::keep_from(V::loadi(weights + i), leasts),
                                 V::keep_from(V::loadi(weights + i + kLanes), leasts)));
    sums[b] = V::sumw(sum);
  }
}

double sum_exp(const float* x, int blocks, float top) {
  double sum = 0;
  for (int b = 0; b < blocks; b++) {
    V::F part = V::set1(0.0f);
    for (int i = b * kBlock; i < (b + 1) * kBlock; i += kLanes)
      part = V::add(part, exp16(V::sub(V::load(x + i), V::set1(top))));
    sum += double(V::sum(part));
  }
  return sum;
}

}  // namespace
