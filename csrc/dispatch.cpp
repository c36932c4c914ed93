// Which kernels run: a table by name, the last one available wins. And the facts of each format.
#include <cstdlib>
#include <stdexcept>

#include "cpu.h"
#include "dispatch.h"

namespace qwell {

// `base` with tiles for prompt rows and for more than a few reply rows, and with their attention.
static Kernels with_tiles(const Kernels& base, const char* name, const TileKernels& tiles) {
  Kernels kernels = base;
  kernels.name = name, kernels.tiles = &tiles, kernels.tiled_attention = &tiles.attention;
  for (int i = 0; i < kNumFormats; i++)
    if (tiles.bytes[i]) kernels.linear[i] = tiles.bytes[i];
  return kernels;
}

static Kernels with_pairs(const Kernels& base, const char* name, const PairKernels& pairs) {
  Kernels kernels = base;
  kernels.name = name, kernels.tiled_attention = &pairs.attention;
  kernels.paired = pairs.linear, kernels.round = pairs.round;
  return kernels;
}

// For tests of these formulas on CPUs without tiles or pairs: never listed, never chosen by itself.
static const Kernels* emulated_named(const std::string& name) {
  static const Kernels pairs = with_pairs(kScalarKernels, "emulated-pairs", kEmulatedPairs);
  if (name == pairs.name) return &pairs;
  static const Kernels scalar = with_tiles(kScalarKernels, "emulated-scalar", kEmulatedScalarTiles);
  if (name == scalar.name) return &scalar;
  if (name != "emulated") return nullptr;
#if defined(__x86_64__)
  static const Kernels avx512 = with_tiles(kAvx512Kernels, "emulated", kEmulatedAvx512Tiles);
  if (cpu().avx512_vnni && cpu().avx512_bf16) return &avx512;
#endif
  static const Kernels plain = with_tiles(kScalarKernels, "emulated", kEmulatedScalarTiles);
  return &plain;
}

const Kernels& kernels_named(const std::string& name) {
  if (const Kernels* emulated = emulated_named(name)) return *emulated;
  std::string known;
  for (const std::string& available : isa_available()) {
    known += (known.empty() ? "" : ", ") + available;
    if (available != name) continue;
    if (name == "scalar") return kScalarKernels;
#if defined(__x86_64__)
    if (name == "avx2") return kAvx2Kernels;
    if (name == "avxvnni") return kAvxVnniKernels;
    if (name == "avx512") return kAvx512Kernels;
    static const Kernels bf16 = with_pairs(kAvx512Kernels, "avx512bf16", kPairs);
    if (name == bf16.name) return bf16;
    static const Kernels amx = with_tiles(kAvx512Kernels, "amx", kAmxTiles);
    return amx;
#elif defined(__aarch64__)
    return name == "neon" ? kNeonKernels : kDotprodKernels;
#endif
  }
  throw std::invalid_argument("the instruction set '" + name + "' is not available here: choose one of " + known);
}

const Kernels& select_kernels() {
  const char* forced = std::getenv("QWELL_FORCE_ISA");
  return kernels_named(forced && *forced ? forced : isa_available().back());
}

template <Format F>
static constexpr FormatInfo integer_info() {
  return {Block<F>::inputs, Block<F>::bytes, true};
}

FormatInfo format_info(Format format) {
  switch (format) {
    case Format::F32: return {1, 4 * kPanel, false};
    case Format::F16: return {1, 2 * kPanel, false};
    case Format::BF16: return {2, 4 * kPanel, false};
    case Format::Q4_0: return integer_info<Format::Q4_0>();
    case Format::Q4_1: return integer_info<Format::Q4_1>();
    case Format::Q5_0: return integer_info<Format::Q5_0>();
    case Format::Q5_1: return integer_info<Format::Q5_1>();
    case Format::Q8_0: return integer_info<Format::Q8_0>();
    case Format::Q2_K: return integer_info<Format::Q2_K>();
    case Format::Q3_K: return integer_info<Format::Q3_K>();
    case Format::Q4_K: return integer_info<Format::Q4_K>();
    case Format::Q5_K: return integer_info<Format::Q5_K>();
    case Format::Q6_K: return integer_info<Format::Q6_K>();
  }
  throw std::invalid_argument("unknown packed format");
}

}  // namespace qwell
