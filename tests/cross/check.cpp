// Runs every kernel of every instruction set this CPU has, and compares bit for bit with scalar.
// `make neon-check` builds it for AArch64 and runs it under emulation; it needs no Python.
// Arguments: the instruction sets to check; none: all there are. Status 0: nothing differs.
#include "check.h"

#include <algorithm>
#include <cstdio>
#include <exception>
#include <string>

#include "cpu.h"
#include "dispatch.h"

namespace check {

std::vector<float> hostile_row(int kind, int n, Random& random) {
  std::vector<float> x(n);
  for (float& v : x) v = random.between(-3, 3);
  const int giant = random.below(std::min(n, qwell::kGroup));
  for (int i = 0; i < n; i++) {
    const float sign = x[i] < 0 ? -1.0f : 1.0f;
    switch (kind % kTroubles) {
      case 0: break;
      case 1: x[i] = 3 * sign; break;
      case 2: x[i] = i % qwell::kGroup == giant ? 1e30f : x[i]; break;
      case 3: x[i] = 1e-42f * sign; break;
      case 4: x[i] = -0.0f; break;
      case 5: x[i] = sign * (i % 3 == 0 ? 1e-30f : i % 3 == 1 ? 1.0000001e-30f : 9e-31f); break;
      case 6: x[i] = 3.4e38f * sign; break;
      case 7: x[i] = std::nearbyint(2 * x[i]) + 0.5f; break;
      case 8: x[i] = i == giant ? INFINITY * sign : x[i]; break;
      default: x[i] = i == giant ? NAN : x[i];
    }
  }
  return x;
}

static int report(const qwell::Kernels& kernels, const char* what, const Tally& tally) {
  std::printf("%-8s %-20s %10lld values, %lld differ\n", kernels.name, what, static_cast<long long>(tally.values),
              static_cast<long long>(tally.different));
  return tally.different == 0 && tally.values > 0 ? 0 : 1;
}

static int check_kernels(const qwell::Kernels& kernels) {
  return report(kernels, "linear", check_linear(kernels)) + report(kernels, "quantize", check_quantize(kernels)) +
         report(kernels, "exp", check_exp(kernels)) + report(kernels, "rows", check_rows(kernels)) +
         report(kernels, "attention", check_attention(kernels, false)) +
         report(kernels, "attention over int8", check_attention(kernels, true)) +
         report(kernels, "sampling", check_sampling(kernels));
}

}  // namespace check

int main(int count, char** names) try {
  const std::vector<std::string> chosen =
      count > 1 ? std::vector<std::string>(names + 1, names + count) : qwell::isa_available();
  int faults = 0;
  for (const std::string& name : chosen) faults += check::check_kernels(qwell::kernels_named(name));
  return faults ? 1 : 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "check: %s\n", error.what());
  return 1;
}
