// What this CPU can do, from CPUID bits and the operating system's word on register state (on ARM
// from its word alone). Never from the model's name: virtual machines mask it.
#pragma once

#include <string>
#include <vector>

namespace qwell {

struct Cpu {
  bool avx2, fma, f16c, avx_vnni, avx512, avx512_vnni, avx512_bf16, amx_int8, amx_bf16, dotprod;
};
const Cpu& cpu();
std::vector<std::string> isa_available();  // those that run here, the best last

}  // namespace qwell
