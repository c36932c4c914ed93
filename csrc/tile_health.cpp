// The checks before AMX is offered: permission, a known product, tiles that outlive interruptions.
#include "tile_health.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>

#include "cpu.h"

#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>

#pragma GCC push_options
#pragma GCC target("amx-tile,amx-bf16,amx-int8")
#include "kernels/lanes/amx.h"
#pragma GCC pop_options

namespace qwell {
namespace {

// Small whole numbers: every order of summation gives the same product, so this finds tiles that
// do not work, not CPUs that add in another order.
float number(int i) { return float(i * 37 % 15 - 7); }

uint16_t bf16(float x) {  // exact for these numbers
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return uint16_t(bits >> 16);
}

struct Probe {
  alignas(64) uint16_t a[16][32], b[16][16][2];
  alignas(64) float c[16][16];

  Probe() {
    for (int m = 0; m < 16; m++)
      for (int k = 0; k < 32; k++) a[m][k] = bf16(number(32 * m + k));
    for (int k = 0; k < 32; k++)
      for (int n = 0; n < 16; n++) b[k / 2][n][k % 2] = bf16(number(7 * k + 11 * n));
  }
  bool right() const {
    for (int m = 0; m < 16; m++)
      for (int n = 0; n < 16; n++) {
        float want = 0;
        for (int k = 0; k < 32; k++) want += number(32 * m + k) * number(7 * k + 11 * n);
        if (c[m][n] != want) return false;
      }
    return true;
  }
  // The product, held in a tile while the thread spins.
  bool multiply(std::chrono::microseconds hold) {
    std::memset(c, 0, sizeof c);
    T::begin();
    T::zero<0>(), T::load<4>(a, 64), T::load<6>(b, 64), T::dot<0, 4, 6>();
    const auto until = std::chrono::steady_clock::now() + hold;
    while (std::chrono::steady_clock::now() < until) {}
    T::store<0>(c, 64);
    T::end();
    return right();
  }
};

std::string check() {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  if (!cpu().amx_bf16 || !cpu().amx_int8) return "this CPU has no AMX";
  if (!cpu().avx512_vnni || !cpu().avx512_bf16) return "this CPU has AMX but not AVX-512 with VNNI and BF16";
  if (syscall(SYS_arch_prctl, kRequestPermission, kTileData) != 0)
    return std::string("the kernel refuses tile state: ") + std::strerror(errno);
  Probe probe;
  if (!probe.multiply(std::chrono::microseconds(0))) return "a known tile product came out wrong";
  for (int i = 0; i < 4; i++)
    if (!probe.multiply(std::chrono::microseconds(1000))) return "tile state was lost in a pre-emption probe";
  return "ok";
}

}  // namespace
}  // namespace qwell
#else
namespace qwell {
static std::string check() { return "this CPU has no AMX"; }
}  // namespace qwell
#endif

const std::string& qwell::amx_status() {
  static const std::string status = check();
  return status;
}
