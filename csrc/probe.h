// Measured ceilings of this machine: what its memory and its arithmetic give at best, with loops
// that do nothing else. Each call is one short measurement; which of them to take, how often, and
// what counts as the answer is Python's business (native/probe.py). It knows no model.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "memory.h"
#include "team.h"

namespace qwell {

class Probe {
 public:
  // Two buffers of `bytes` each, one on 4 KB and one on 2 MB pages, touched by the threads that will
  // read them. `isa` chooses the loops. Throws std::bad_alloc, std::system_error.
  Probe(int threads, int64_t bytes, const std::string& isa);

  // One pass over one buffer by the first `readers` threads, each its own part, read as 1 or 4
  // streams with prefetcht1 `ahead` bytes ahead (0: none). Bytes a second, from the first start to
  // the last end. Throws std::invalid_argument.
  double read(int readers, bool huge, int streams, int64_t ahead);

  // Operations a second of all threads together on registers alone, a multiplication and an addition
  // counted as two; kind is f32, int8, bf16, amx_int8 or amx_bf16. 0 if there is no such thing here.
  double peak(const std::string& kind, double seconds);

  // Cycles a second: dependent additions take one each.
  static double clock();

  int threads() const { return team_.size(); }

 private:
  Team team_;
  std::string isa_;
  int64_t share_;  // bytes of one thread's part
  Region small_, huge_;
  std::vector<uint64_t> small_sums_, huge_sums_;  // XOR of each part
};

}  // namespace qwell
