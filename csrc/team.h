// The threads that walk a step together. The caller is worker 0. Between steps the others sleep;
// inside a step a barrier spins briefly, then sleeps, so a busy neighbour costs time, not a core.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace qwell {

class Team {
 public:
  explicit Team(int size);  // >= 1; throws std::system_error if a thread cannot start
  ~Team();
  Team(const Team&) = delete;

  int size() const { return size_; }
  // False in a process forked from the one that made it: its threads are not there, so nothing may run; it
  // may be destroyed.
  bool is_here() const;
  // Runs work(context, id) on every worker, ids 0 .. size - 1, and returns when all are done. All
  // of them compute by the default rules of floating point, whatever the caller's are.
  void run(void (*work)(void*, int), void* context);
  // All workers of a run meet here; what one wrote before, the others see after.
  void barrier();

 private:
  void wait_past(std::atomic<uint32_t>& value, uint32_t old);
  void worker(int id);
  void stop();

  int size_;
  int64_t owner_;  // process id
  std::atomic<uint32_t> epoch_{0}, turn_{0}, arrived_{0};
  std::atomic<bool> stop_{false};
  void (*work_)(void*, int) = nullptr;
  void* context_ = nullptr;
  std::vector<std::thread> threads_;
};

}  // namespace qwell
