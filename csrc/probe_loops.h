// The loops of the probe, over vectors of the compiler, for the target region that includes this:
// once a region, inside a namespace of its own, so no include guard. The region says beforehand how
// many sums of 64 bytes its registers hold (QWELL_PROBE_SUMS). It knows no instruction set.

typedef uint64_t Line __attribute__((vector_size(64)));

// Reads [p, p + bytes) as `streams` neighbouring parts side by side, asking for each line `ahead`
// bytes before its turn. bytes is a multiple of streams * 512; what is asked for may lie behind.
template <int streams, bool prefetch>
static uint64_t read_lines(const uint8_t* p, int64_t bytes, int64_t ahead) {
  constexpr int kLines = 8;  // a turn of the loop; 16 halved the speed of one stream on Zen 4
  const int64_t part = bytes / streams;
  Line sum[QWELL_PROBE_SUMS] = {};
  for (int64_t at = 0; at < part; at += kLines / streams * 64) {
#pragma GCC unroll 8
    for (int i = 0; i < kLines; i++) {
      const uint8_t* q = p + i % streams * part + at + i / streams * 64;
      if (prefetch) __builtin_prefetch(q + ahead, 0, 2);  // prefetcht1 on x86
      sum[i % QWELL_PROBE_SUMS] ^= *reinterpret_cast<const Line*>(q);
    }
  }
  for (int i = 1; i < QWELL_PROBE_SUMS; i++) sum[0] ^= sum[i];
  uint64_t all = 0;
  for (int i = 0; i < 8; i++) all ^= sum[0][i];
  return all;
}

static uint64_t read_part(const uint8_t* p, int64_t bytes, int streams, int64_t ahead) {
  if (streams == 1) return ahead ? read_lines<1, true>(p, bytes, ahead) : read_lines<1, false>(p, bytes, 0);
  return ahead ? read_lines<4, true>(p, bytes, ahead) : read_lines<4, false>(p, bytes, 0);
}

// `chains` independent sums, each op(sum, a, b) after itself: enough of them fill every port for
// the latency of the instruction. The empty asm hides what is added and that nobody wants it.
template <int chains, class Sum, class A, class B, class Op>
static void run_chains(int64_t rounds, Sum zero, A a, B b, Op op) {
  Sum sum[chains];
  for (int i = 0; i < chains; i++) sum[i] = zero;
  QWELL_PROBE_OPAQUE(a);
  QWELL_PROBE_OPAQUE(b);
  for (int64_t round = 0; round < rounds; round++) {
#pragma GCC unroll 16
    for (int i = 0; i < chains; i++) sum[i] = op(sum[i], a, b);
  }
  for (int i = 0; i < chains; i++) QWELL_PROBE_OPAQUE(sum[i]);
}
