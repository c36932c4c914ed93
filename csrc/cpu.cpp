#include "cpu.h"

#include <cstdint>

#include "tile_health.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace qwell {

#if defined(__x86_64__)
static uint64_t enabled_state() {
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t(high) << 32 | low;
}

static Cpu probe() {
  uint32_t a, b, c, d, a1 = 0, b1 = 0, c1 = 0, d1 = 0;
  Cpu result{};
  if (!__get_cpuid(1, &a, &b, &c, &d)) return result;
  const bool xsave = c >> 27 & 1;
  const uint64_t state = xsave ? enabled_state() : 0;
  const bool ymm = (state & 0x6) == 0x6, zmm = (state & 0xe6) == 0xe6;
  const bool tiles = (state & 0x60000) == 0x60000;
  result.fma = ymm && (c >> 12 & 1);
  result.f16c = ymm && (c >> 29 & 1);
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return result;
  const uint32_t f_dq_bw_vl = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;
  result.avx2 = ymm && (b >> 5 & 1);
  result.avx512 = zmm && (b & f_dq_bw_vl) == f_dq_bw_vl;
  result.avx512_vnni = result.avx512 && (c >> 11 & 1);
  result.amx_int8 = tiles && (d >> 25 & 1);
  result.amx_bf16 = tiles && (d >> 22 & 1);
  if (a >= 1 && __get_cpuid_count(7, 1, &a1, &b1, &c1, &d1)) {
    result.avx_vnni = ymm && (a1 >> 4 & 1);
    result.avx512_bf16 = result.avx512 && (a1 >> 5 & 1);
  }
  return result;
}
#elif defined(__aarch64__)
static Cpu probe() {
  constexpr unsigned long kDotProduct = 1ul << 20;  // HWCAP_ASIMDDP
  Cpu result{};
  result.dotprod = getauxval(AT_HWCAP) & kDotProduct;
  return result;
}
#else
static Cpu probe() { return {}; }
#endif

const Cpu& cpu() {
  static const Cpu value = probe();
  return value;
}

std::vector<std::string> isa_available() {
  std::vector<std::string> names{"scalar"};
  const Cpu& c = cpu();
#if defined(__aarch64__)
  names.push_back("neon");
#endif
  if (c.dotprod) names.push_back("dotprod");
  const bool avx2 = c.avx2 && c.fma && c.f16c;
  if (avx2) names.push_back("avx2");
  if (avx2 && c.avx_vnni) names.push_back("avxvnni");
  if (avx2 && c.avx512_vnni) names.push_back("avx512");
  if (names.back() == "avx512" && c.avx512_bf16) names.push_back("avx512bf16");
  if (names.back() == "avx512bf16" && amx_status() == "ok") names.push_back("amx");
  return names;
}

}  // namespace qwell
