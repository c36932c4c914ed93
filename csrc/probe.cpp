#include "probe.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "probe_isa.h"

namespace qwell {

static double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Span {
  double start, end;
};

// Runs work(worker) on the first `count` workers of the team, all let go at once; their own times.
template <class Work>
static std::vector<Span> timed(Team& team, int count, const Work& work) {
  struct Context {
    Team& team;
    int count;
    const Work& work;
    std::vector<Span> spans;
  } context{team, count, work, std::vector<Span>(team.size())};
  team.run(
      [](void* p, int id) {
        Context& c = *static_cast<Context*>(p);
        c.team.barrier();
        if (id >= c.count) return;
        const double start = now();
        c.work(id);
        c.spans[id] = {start, now()};
      },
      &context);
  context.spans.resize(count);
  return context.spans;
}

// Every page different from every other: a host may keep equal pages once, and then reads them from
// its caches (LOG.md, 2026-11-24).
// Gives the XOR of all.
static uint64_t fill(uint8_t* to, int64_t bytes, uint64_t seed) {
  uint64_t all = 0;
  for (int64_t i = 0; i < bytes; i += 8) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;  // Knuth's MMIX generator
    std::memcpy(to + i, &seed, 8);
    all ^= seed;
  }
  return all;
}

static constexpr int64_t kHugePage = 2 << 20;

Probe::Probe(int threads, int64_t bytes, const std::string& isa)
    : team_(threads),
      isa_(isa),
      share_(std::max(bytes / threads / kHugePage, int64_t(1)) * kHugePage),
      small_(share_ * threads, false),
      huge_(share_ * threads, true),
      small_sums_(threads),
      huge_sums_(threads) {
  timed(team_, threads, [&](int id) {
    small_sums_[id] = fill(small_.data() + id * share_, share_, 2 * id + 1);
    huge_sums_[id] = fill(huge_.data() + id * share_, share_, 2 * id + 2);
  });
}

double Probe::read(int readers, bool huge, int streams, int64_t ahead) {
  if (readers < 1 || readers > threads()) throw std::invalid_argument("there are not so many readers");
  if (streams != 1 && streams != 4) throw std::invalid_argument("streams are 1 or 4");
  const ProbeLoops loops = probe_loops(isa_);
  const uint8_t* data = (huge ? huge_ : small_).data();
  std::vector<uint64_t> found(readers);
  const auto spans =
      timed(team_, readers, [&](int id) { found[id] = loops.read_part(data + id * share_, share_, streams, ahead); });
  const std::vector<uint64_t>& sums = huge ? huge_sums_ : small_sums_;
  if (!std::equal(found.begin(), found.end(), sums.begin()))
    throw std::logic_error("the probe's buffer was changed");  // and so the loops are not idle
  Span whole = spans[0];
  for (const Span& span : spans) whole = {std::min(whole.start, span.start), std::max(whole.end, span.end)};
  return double(share_) * readers / (whole.end - whole.start);
}

static PeakLoop find_loop(const std::string& isa, const std::string& kind) {
  const ProbeLoops loops = probe_loops(isa);
  if (kind == "f32") return loops.f32;
  if (kind == "int8") return loops.int8;
  if (kind == "bf16") return loops.bf16;
  if (kind == "amx_int8") return probe_amx(false);
  if (kind == "amx_bf16") return probe_amx(true);
  throw std::invalid_argument("unknown kind of peak");
}

double Probe::peak(const std::string& kind, double seconds) {
  constexpr int64_t kRounds = 1000;  // some ten microseconds
  const PeakLoop loop = find_loop(isa_, kind);
  if (!loop.run) return 0;
  std::vector<int64_t> turns(threads());
  const auto spans = timed(team_, threads(), [&](int id) {
    const double end = now() + seconds;
    do loop.run(kRounds), turns[id]++;
    while (now() < end);
  });
  double rate = 0;
  for (int id = 0; id < threads(); id++)
    rate += double(turns[id]) * kRounds * loop.ops / (spans[id].end - spans[id].start);
  return rate;
}

double Probe::clock() {
  constexpr int64_t kRounds = 50000, kAdds = 64;  // about 1 ms
  int64_t rounds = kRounds, sum = 0, one = 1;
  const double start = now();
  // From register to register: newer cores add a constant without waiting for the sum.
#if defined(__x86_64__)
  __asm__ volatile("1:\n\t.rept 64\n\tadd %[one], %[sum]\n\t.endr\n\tdec %[rounds]\n\tjnz 1b"
                   : [sum] "+r"(sum), [rounds] "+r"(rounds)
                   : [one] "r"(one)
                   : "cc");
#else
  __asm__ volatile("1:\n\t.rept 64\n\tadd %[sum], %[sum], %[one]\n\t.endr\n\tsubs %[rounds], %[rounds], #1\n\tb.ne 1b"
                   : [sum] "+r"(sum), [rounds] "+r"(rounds)
                   : [one] "r"(one)
                   : "cc");
#endif
  return double(kRounds * kAdds) / (now() - start);
}

}  // namespace qwell
