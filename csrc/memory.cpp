#include "memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

namespace qwell {

static constexpr int64_t kHuge = 2 << 20;

Region::Region(int64_t bytes, bool huge) : size_(bytes) {
  mapped_ = (bytes + kHuge - 1) / kHuge * kHuge + kHuge;  // room to start on a 2 MB border
  void* p = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  const int64_t front = (kHuge - reinterpret_cast<intptr_t>(p) % kHuge) % kHuge;
  if (front) munmap(p, front);
  if (kHuge - front) munmap(static_cast<uint8_t*>(p) + mapped_ - (kHuge - front), kHuge - front);
  mapped_ -= kHuge;
  data_ = static_cast<uint8_t*>(p) + front;
  madvise(data_, mapped_, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);  // advice: refusal is no fault
}

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23  // Linux 5.14
#endif

void Region::commit() {
  madvise(data_, mapped_, MADV_HUGEPAGE);
  int failed;
  do failed = madvise(data_, mapped_, MADV_POPULATE_WRITE);
  while (failed && (errno == EINTR || errno == EAGAIN));
  if (failed && errno != EINVAL) throw std::bad_alloc();
  if (!failed) return;
  for (int64_t at = 0; at < mapped_; at += 4096) {  // an older kernel: a write to every page
    volatile uint8_t* byte = data_ + at;
    *byte = *byte;
  }
}

Region::~Region() {
  if (data_) munmap(data_, mapped_);
}

void Region::swap(Region& other) {
  std::swap(data_, other.data_), std::swap(size_, other.size_), std::swap(mapped_, other.mapped_);
}

static void read_part(int file, uint8_t* to, int64_t begin, int64_t end, int* fault) {
  while (begin < end) {
    const ssize_t n = pread(file, to + begin, std::min<int64_t>(end - begin, 8 << 20), begin);
    if (n == 0) *fault = EIO;
    if (n < 0 && errno != EINTR) *fault = errno;
    if (*fault) return;
    if (n > 0) begin += n;
  }
}

Region Region::read_file(const std::string& path, int64_t bytes, int readers) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) throw std::runtime_error(path + ": " + std::strerror(errno));
  struct stat info{};
  if (fstat(file, &info) || info.st_size != bytes) {
    close(file);
    throw std::runtime_error(path + ": has " + std::to_string(info.st_size) + " bytes, not " + std::to_string(bytes));
  }
  std::vector<int> faults(readers, 0);
  Region region;
  try {
    region = Region(bytes, true);
    std::vector<std::jthread> threads;  // joined also when one cannot start
    readers = std::min(readers, 8);
    const int64_t share = (bytes / readers + kHuge) / kHuge * kHuge;
    for (int i = 0; i < readers; i++)
      threads.emplace_back(read_part, file, region.data(), std::min(bytes, i * share), std::min(bytes, (i + 1) * share),
                           &faults[i]);
  } catch (...) {
    close(file);
    throw;
  }
  close(file);
  for (int fault : faults)
    if (fault) throw std::runtime_error(path + ": " + std::strerror(fault));
  return region;
}

}  // namespace qwell
