// The loops of the probe by instruction set, and AMX, whose tiles no other set has.
#pragma once

#include <cstdint>
#include <string>

namespace qwell {

struct PeakLoop {
  void (*run)(int64_t rounds) = nullptr;  // null: not on this CPU
  double ops = 0;                         // of a round
};
struct ProbeLoops {
  // [p, p + bytes) as 1 or 4 streams, prefetcht1 `ahead` bytes ahead (0: none); the XOR of all.
  uint64_t (*read_part)(const uint8_t* p, int64_t bytes, int streams, int64_t ahead);
  PeakLoop f32, int8, bf16;
};

// What a kernel table of this name could do at best; a name above AVX-512 gets the AVX-512 loops.
ProbeLoops probe_loops(const std::string& isa);

// Asks the system for leave to use tiles first; null where CPU or system refuse.
PeakLoop probe_amx(bool bf16);

}  // namespace qwell
