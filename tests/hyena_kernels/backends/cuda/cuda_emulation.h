// Runs CUDA kernels on the CPU, for tests. csrc/cuda/runtime.cuh includes this file if the compiler is not nvcc.
//
// Every thread of a block is a fiber. One after the other runs to its next barrier. So the real kernel is checked, with
// its own launch geometry. The shared memory of a block is NaN at first, and a guard follows it. Threads take turns in
// ascending or, if `descending`, in descending order. If a barrier is missing, the two orders give different results.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#define HYENA_DEVICE inline
#define HYENA_DEVICE_TABLE const
#define __global__
#define __launch_bounds__(...)
#define __grid_constant__
#define HYENA_DYNAMIC_SHARED(name) unsigned char* name = ::hyena::emulation::shared
#define HYENA_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  ((void)(stream),                                                   \
   ::hyena::emulation::launch(#kernel, grid, block, shared_bytes, [&] { kernel(__VA_ARGS__); }))

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

struct alignas(16) float4 {
  float x, y, z, w;
};

struct alignas(8) uint2 {
  unsigned x, y;
};

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

inline dim3 threadIdx{0}, blockIdx{0}, blockDim{1}, gridDim{1};

// For tests, through the loaded library. 0: ascending, 1: descending.
extern "C" {
__attribute__((visibility("default"), used)) inline int hyena_emulation_descending = 0;
}

namespace hyena {

using Stream = void*;

namespace emulation {

constexpr int guard_bytes = 256, stack_bytes = 64 * 1024;
constexpr unsigned char guard_value = 0xa5;

inline unsigned char* shared = nullptr;
inline ucontext_t scheduler;
inline const std::function<void()>* body = nullptr;

struct Fiber {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(stack_bytes);
  bool finished = false;
};

inline std::vector<std::unique_ptr<Fiber>> fibers;
inline Fiber* current = nullptr;

inline void run_body() {
  (*body)();
  current->finished = true;
}

inline void barrier() { swapcontext(&current->context, &scheduler); }

inline void run_block(unsigned threads, int shared_bytes) {
  // Aligned to 16 bytes, as in CUDA.
  std::vector<float4> memory((shared_bytes + guard_bytes + 15) / 16);
  shared = reinterpret_cast<unsigned char*>(memory.data());
  std::memset(shared, 0xff, shared_bytes);
  std::memset(shared + shared_bytes, guard_value, guard_bytes);
  while (fibers.size() < threads) fibers.push_back(std::make_unique<Fiber>());
  for (unsigned i = 0; i < threads; ++i) {
    Fiber& fiber = *fibers[i];
    fiber.finished = false;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = &scheduler;
    makecontext(&fiber.context, run_body, 0);
  }
  for (unsigned finished = 0; finished < threads;) {
    finished = 0;
    for (unsigned turn = 0; turn < threads; ++turn) {
      const unsigned i = hyena_emulation_descending ? threads - 1 - turn : turn;
      current = fibers[i].get();
      threadIdx = dim3(i);
      swapcontext(&scheduler, &current->context);
      finished += current->finished;
    }
    if (finished != 0 && finished != threads)
      throw std::runtime_error("emulated kernel: some threads of a block wait at a barrier that others never reach");
  }
  if (std::any_of(shared + shared_bytes, shared + shared_bytes + guard_bytes,
                  [](unsigned char value) { return value != guard_value; }))
    throw std::runtime_error("emulated kernel: written beyond the block's shared memory");
}

// A line for each kernel, number of threads and size of shared memory.
inline std::set<std::string> launched;

inline void launch(const char* name, dim3 grid, dim3 block, int shared_bytes, const std::function<void()>& kernel) {
  const unsigned threads = block.x;
  if (block.y != 1 || block.z != 1 || threads < 1 || threads > 1024 || grid.y > 65535 || grid.z > 65535 ||
      grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.x > 2147483647u || shared_bytes > 227 * 1024)
    throw std::runtime_error("emulated kernel: no GPU can launch this geometry");
  launched.insert(std::string(name) + " " + std::to_string(threads) + " " + std::to_string(shared_bytes));
  body = &kernel;
  blockDim = block;
  gridDim = grid;
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = dim3(x, y, z);
        run_block(threads, shared_bytes);
      }
}

}  // namespace emulation

inline int opaque(int value) { return value; }

inline float float_from_word(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint32_t word_from_float(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float half_to_float(uint16_t bits) {
  return c10::Half(bits, c10::Half::from_bits());
}

inline uint16_t float_to_half(float value) { return c10::Half(value).x; }

inline float bfloat_to_float(uint16_t bits) { return c10::BFloat16(bits, c10::BFloat16::from_bits()); }

inline uint16_t float_to_bfloat(float value) { return c10::BFloat16(value).x; }

}  // namespace hyena

inline void __syncthreads() { hyena::emulation::barrier(); }

extern "C" __attribute__((visibility("default"), used)) inline const char* hyena_emulation_launches() {
  static std::string lines;
  lines.clear();
  for (const std::string& line : hyena::emulation::launched) lines += line + "\n";
  hyena::emulation::launched.clear();
  return lines.c_str();
}
