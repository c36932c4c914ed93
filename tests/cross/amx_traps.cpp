// AMX on a CPU without it: the core, linked with this file, executes its real tile instructions, each
// traps as unknown (SIGILL), and the handler does what the manual says (Intel SDM vol. 2, chapter
// "AMX"): reads the bytes of the instruction, the registers and the memory, and goes on behind it.
// So amx.cpp, lanes/amx.h, tile_health.cpp and train/gemm_amx.cpp are run as they are, encodings,
// strides and configuration included; the dots are those of lanes/tiles_emulated.h. A trap costs a
// microsecond or two, so it says nothing about speed. tools/amx_check.sh builds and uses it.
#include <csignal>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/syscall.h>
#include <ucontext.h>

#include <immintrin.h>

#include <algorithm>
#include <cmath>

#include "cpu.h"
#include "kernels.h"

#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")
#include "kernels/lanes/avx512.h"
#include "kernels/lanes/tiles_emulated.h"

namespace {

[[noreturn]] void fail(const char* why) {
  std::fprintf(stderr, "amx_traps: %s\n", why);
  std::abort();
}

// ---- what a thread holds in tiles ------------------------------------------------------------

struct Config {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
static_assert(sizeof(Config) == 64);

struct Tiles {
  Config config;  // palette 0: not configured
  alignas(64) uint8_t tile[8][1024];
};
thread_local Tiles tiles;

void configure(const void* from) {
  std::memcpy(&tiles.config, from, sizeof tiles.config);
  if (tiles.config.palette != 1) fail("ldtilecfg of a palette other than 1");
  if (tiles.config.start_row) fail("ldtilecfg with a start row");
  for (uint8_t byte : tiles.config.reserved)
    if (byte) fail("ldtilecfg with reserved bytes set");
  for (int t = 0; t < 8; t++)  // all this program uses; the emulated dots know no other shape
    if (tiles.config.rows[t] != 16 || tiles.config.row_bytes[t] != 64) fail("a tile that is not 16 rows of 64 bytes");
  for (int t = 8; t < 16; t++)
    if (tiles.config.rows[t] || tiles.config.row_bytes[t]) fail("ldtilecfg names tiles that palette 1 has not");
  std::memset(tiles.tile, 0, sizeof tiles.tile);
}

template <typename Dot>
void multiply(int c, int a, int b, Dot dot) {
  if (c == a || c == b || a == b) fail("a dot whose tiles are not three");
  T::load<0>(tiles.tile[c], 64), T::load<1>(tiles.tile[a], 64), T::load<2>(tiles.tile[b], 64);
  dot();
  T::store<0>(tiles.tile[c], 64);
}

// ---- the instruction -------------------------------------------------------------------------

constexpr int kRegisters[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

// A VEX instruction of three bytes of prefix (vol. 2, section 2.3): operands, address and length.
struct Instruction {
  int opcode, prefix;  // prefix: 0 none, 1 66, 2 F3, 3 F2
  int reg, rm, v;      // rm is a tile if is_register
  bool is_register;
  uint64_t base, stride;  // of the memory operand: stride is the index register, scaled
  int length;
};

int32_t read32(const uint8_t* p) {
  int32_t value;
  std::memcpy(&value, p, 4);
  return value;
}

// False if these bytes are no such instruction.
bool decode(const uint8_t* code, const greg_t* registers, Instruction& out) {
  if (code[0] != 0xc4 || (code[1] & 0x1f) != 2 || code[2] & 0x84) return false;  // map 0F38, W0, 128 bits
  const int x = ~code[1] >> 6 & 1, b = ~code[1] >> 5 & 1;
  out.prefix = code[2] & 3, out.v = ~code[2] >> 3 & 15, out.opcode = code[3];
  const int modrm = code[4], mod = modrm >> 6, rm = modrm & 7;
  out.reg = modrm >> 3 & 7, out.rm = rm, out.is_register = mod == 3;
  out.base = out.stride = 0, out.length = 5;
  if (out.is_register) return true;
  const auto value = [&](int r) { return uint64_t(registers[kRegisters[r]]); };
  int base = rm | b << 3;
  if (rm == 4) {
    const int sib = code[out.length++], index = (sib >> 3 & 7) | x << 3;
    base = (sib & 7) | b << 3;
    if (index != 4) out.stride = value(index) << (sib >> 6);
  }
  const bool no_base = mod == 0 && (base & 7) == 5;
  if (!no_base) out.base = value(base);
  if (mod == 1) out.base += int8_t(code[out.length++]);
  if (mod == 2 || no_base) out.base += int64_t(read32(code + out.length)), out.length += 4;
  if (no_base && rm != 4) out.base += uint64_t(registers[REG_RIP]) + out.length;  // relative to the next one
  return true;
}

// Does it. False if it is none of AMX's.
bool execute(const Instruction& i) {
  const int kind = i.opcode << 4 | i.prefix;
  auto* memory = reinterpret_cast<uint8_t*>(i.base);
  if (kind == 0x490 && !i.is_register && i.reg == 0) return configure(memory), true;      // ldtilecfg
  if (kind == 0x490 && i.is_register) return std::memset(&tiles, 0, sizeof tiles), true;  // tilerelease
  if (i.opcode != 0x49 && i.opcode != 0x4b && i.opcode != 0x5c && i.opcode != 0x5e) return false;
  if (tiles.config.palette != 1) fail("a tile instruction on a thread whose tiles are not configured");
  uint8_t* tile = tiles.tile[i.reg];
  switch (kind) {
    case 0x493:  // tilezero
      return std::memset(tile, 0, 1024), true;
    case 0x4b3:  // tileloadd
    case 0x4b1:  // tileloaddt1
      for (int row = 0; row < 16; row++) std::memcpy(tile + 64 * row, memory + row * int64_t(i.stride), 64);
      return true;
    case 0x4b2:  // tilestored
      for (int row = 0; row < 16; row++) std::memcpy(memory + row * int64_t(i.stride), tile + 64 * row, 64);
      return true;
    case 0x5c2:  // tdpbf16ps
      return multiply(i.reg, i.rm, i.v, [] { T::dot<0, 1, 2>(); }), true;
    case 0x5e3:  // tdpbssd
      return multiply(i.reg, i.rm, i.v, [] { T::dot_bytes<0, 1, 2>(); }), true;
  }
  return false;
}

void trapped(int, siginfo_t*, void* context) {
  greg_t* registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  const auto step = [&] {
    Instruction next;
    if (!decode(reinterpret_cast<const uint8_t*>(registers[REG_RIP]), registers, next) || !execute(next)) return false;
    registers[REG_RIP] += next.length;
    return true;
  };
  if (!step()) std::signal(SIGILL, SIG_DFL);  // somebody else's: it happens again and ends the process
  while (step()) {}                           // those right behind it need no trap of their own
}

[[gnu::constructor]] void install() {
  struct sigaction action{};
  action.sa_sigaction = trapped;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigaction(SIGILL, &action, nullptr);
}

}  // namespace
#pragma GCC pop_options

// ---- what the core asks before it uses tiles (the linker's --wrap brings these in) ---------------

namespace qwell {
const Cpu& real_cpu() asm("__real__ZN5qwell3cpuEv");
const Cpu& cpu_with_tiles() asm("__wrap__ZN5qwell3cpuEv");

const Cpu& cpu_with_tiles() {
  static const Cpu with_tiles = [] {
    Cpu found = real_cpu();
    found.amx_int8 = found.amx_bf16 = true;
    return found;
  }();
  return with_tiles;
}
}  // namespace qwell

extern "C" long __real_syscall(long number, ...);
extern "C" long __wrap_syscall(long number, ...) {
  constexpr long kRequestTileState = 0x1023;  // ARCH_REQ_XCOMP_PERM: granted here
  long a[6];
  va_list list;
  va_start(list, number);
  for (long& value : a) value = va_arg(list, long);
  va_end(list);
  if (number == SYS_arch_prctl && a[0] == kRequestTileState) return 0;
  return __real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
