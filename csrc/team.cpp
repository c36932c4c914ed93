#include "team.h"

#include <unistd.h>

#include <cfenv>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace qwell {

static void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("isb");  // some tens of cycles, as a pause; the yield hint does nothing on most cores
#else
  std::this_thread::yield();
#endif
}

// The default rules of floating point (round to nearest, denormals kept) while it lives. Worker 0 is
// the caller's thread, where any library may have set others; threads inherit those of their maker.
class DefaultRules {
 public:
  DefaultRules() {
    std::fegetenv(&before_);
    std::fesetenv(FE_DFL_ENV);
  }
  ~DefaultRules() { std::fesetenv(&before_); }
  DefaultRules(const DefaultRules&) = delete;

 private:
  std::fenv_t before_;
};

Team::Team(int size) : size_(size), owner_(getpid()) {
  try {
    for (int id = 1; id < size; id++) threads_.emplace_back([this, id] { worker(id); });
  } catch (...) {  // the system has no more threads: end those that started
    stop();
    throw;
  }
}

Team::~Team() {
  // A thread that stayed behind must not be waited for, nor let go of: its handle is left alone.
  if (!is_here()) (void)new std::vector<std::thread>(std::move(threads_));
  else stop();
}

bool Team::is_here() const { return getpid() == owner_; }

void Team::stop() {
  stop_ = true;
  epoch_.fetch_add(1);
  epoch_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Team::wait_past(std::atomic<uint32_t>& value, uint32_t old) {
  for (int spin = 0; spin < 2000; spin++) {  // about 50 us
    if (value.load(std::memory_order_acquire) != old) return;
    relax();
  }
  while (value.load(std::memory_order_acquire) == old) value.wait(old, std::memory_order_acquire);
}

void Team::worker(int id) {
  const DefaultRules rules;
  for (uint32_t seen = 0;; seen++) {
    wait_past(epoch_, seen);
    if (stop_) return;
    work_(context_, id);
    barrier();
  }
}

void Team::run(void (*work)(void*, int), void* context) {
  const DefaultRules rules;
  work_ = work, context_ = context;
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  work(context, 0);
  barrier();
}

void Team::barrier() {
  if (size_ == 1) return;
  const uint32_t turn = turn_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == uint32_t(size_)) {
    arrived_.store(0, std::memory_order_relaxed);
    turn_.fetch_add(1, std::memory_order_release);
    turn_.notify_all();
  } else {
    wait_past(turn_, turn);
  }
}

}  // namespace qwell
