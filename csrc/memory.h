// Memory the program owns: zeroed, page-aligned, taken from the system only as it is touched.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace qwell {

class Region {
 public:
  Region() = default;
  // Reserves bytes of zeroes; huge asks for 2 MB pages. Throws std::bad_alloc.
  Region(int64_t bytes, bool huge);
  // The whole file, read by `readers` threads into huge-page memory. Throws std::runtime_error
  // with the system's reason, also when the file is not `bytes` long.
  static Region read_file(const std::string& path, int64_t bytes, int readers);
  Region(Region&& other) noexcept { swap(other); }
  Region& operator=(Region&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Region();

  // Takes all of it from the system now, in 2 MB pages where it can; what is there stays. Throws
  // std::bad_alloc.
  void commit();

  uint8_t* data() const { return data_; }
  int64_t size() const { return size_; }

 private:
  void swap(Region& other);
  uint8_t* data_ = nullptr;
  int64_t size_ = 0, mapped_ = 0;
};

}  // namespace qwell
