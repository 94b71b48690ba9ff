#include "scratch.h"

#include <cstdlib>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace hyena {
namespace {

constexpr std::size_t kept_bytes = std::size_t{16} << 20;
constexpr std::size_t huge_page = std::size_t{2} << 20;

struct Memory {
  void* data = nullptr;
  std::size_t size = 0;

  void release() {
    std::free(data);
    data = nullptr;
    size = 0;
  }

  ~Memory() { release(); }
};

thread_local Memory memories[2];

}  // namespace

void* scratch(For use, std::size_t bytes) {
  Memory& memory = memories[static_cast<int>(use)];
  if (bytes > memory.size) {
    memory.release();
    const std::size_t unit = bytes >= huge_page ? huge_page : 64;
    const std::size_t size = (bytes + unit - 1) / unit * unit;
    memory.data = std::aligned_alloc(unit, size);
    if (memory.data == nullptr) throw std::bad_alloc();
    memory.size = size;
#if defined(__linux__)
    // Passes over long rows touch many pages at large strides.
    if (unit == huge_page) madvise(memory.data, size, MADV_HUGEPAGE);
#endif
  }
  return memory.data;
}

void trim_scratch(For use) {
  Memory& memory = memories[static_cast<int>(use)];
  if (memory.size > kept_bytes) memory.release();
}

}  // namespace hyena
