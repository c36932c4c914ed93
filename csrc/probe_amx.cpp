// The peak of AMX: six sums from two tiles that stay in their registers. One piece of assembly a
// kind, so that no compiler comes between the tile configuration and its use (GCC 12 drops stores
// that fill the struct when an intrinsic loads it).
#include <cstdint>

#include "cpu.h"
#include "probe_isa.h"

#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>

namespace qwell {

namespace {

struct alignas(64) TileConfig {  // ldtilecfg's operand: palette 1, every tile 16 rows of 64 bytes
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);

struct alignas(64) Tile {
  uint32_t word[256];
};

// word: two bf16 or four int8 of a moderate size, so that the multipliers have something to do.
#define QWELL_TILE_LOOP(name, instruction, fill)                                                                 \
  void name(int64_t rounds) {                                                                                    \
    const TileConfig config;                                                                                     \
    Tile tile;                                                                                                   \
    for (uint32_t& word : tile.word) word = fill;                                                                \
    __asm__ volatile(                                                                                            \
        "ldtilecfg %[config]\n\t"                                                                                \
        "tileloadd (%[tile],%[row],1), %%tmm6\n\t"                                                               \
        "tileloadd (%[tile],%[row],1), %%tmm7\n\t"                                                               \
        "tilezero %%tmm0\n\ttilezero %%tmm1\n\ttilezero %%tmm2\n\t"                                              \
        "tilezero %%tmm3\n\ttilezero %%tmm4\n\ttilezero %%tmm5\n"                                                \
        "1:\n\t" instruction " %%tmm7, %%tmm6, %%tmm0\n\t" instruction " %%tmm7, %%tmm6, %%tmm1\n\t" instruction \
        " %%tmm7, %%tmm6, %%tmm2\n\t" instruction " %%tmm7, %%tmm6, %%tmm3\n\t" instruction                      \
        " %%tmm7, %%tmm6, %%tmm4\n\t" instruction                                                                \
        " %%tmm7, %%tmm6, %%tmm5\n\t"                                                                            \
        "dec %[rounds]\n\t"                                                                                      \
        "jnz 1b\n\t"                                                                                             \
        "tilerelease"                                                                                            \
        : [rounds] "+r"(rounds)                                                                                  \
        : [config] "m"(config), [tile] "r"(&tile), "m"(tile), [row] "r"(int64_t(64))                             \
        : "cc");                                                                                                 \
  }
QWELL_TILE_LOOP(amx_int8, "tdpbssd", 0x4dc9374d)
QWELL_TILE_LOOP(amx_bf16, "tdpbf16ps", 0x3f003e80)
#undef QWELL_TILE_LOOP

constexpr long kRequestState = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA

}  // namespace

PeakLoop probe_amx(bool bf16) {
  if (!(bf16 ? cpu().amx_bf16 : cpu().amx_int8)) return {};
  if (syscall(SYS_arch_prctl, kRequestState, kTileData)) return {};
  return bf16 ? PeakLoop{amx_bf16, 6 * 16 * 16 * 32 * 2} : PeakLoop{amx_int8, 6 * 16 * 16 * 64 * 2};
}

}  // namespace qwell
#else
namespace qwell {
PeakLoop probe_amx(bool) { return {}; }
}  // namespace qwell
#endif
