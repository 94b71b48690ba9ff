// What kernels and launches use of CUDA. With another compiler than nvcc, the tests' header cuda_emulation.h replaces
// it, and the same kernels run on the CPU.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#if defined(__CUDACC__)

#include <cuda_runtime.h>

#define HYENA_DEVICE __device__ __forceinline__
#define HYENA_DEVICE_TABLE __device__ const
#define HYENA_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]

namespace hyena {

using Stream = cudaStream_t;

// Throws with torch's message unless `error` is cudaSuccess. It is defined in bindings.cu.
void check_cuda(int error, const char* file, const char* function, int line);

// A kernel has to request more than 48 KB of shared memory per block, on each device.
template <class Kernel>
void launch_shared(Kernel kernel, int bytes, const char* file, const char* function, int line) {
  if (bytes <= 48 * 1024) return;
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  // Torch clears the error of its own runtime. The runtime of this library has its own error, which the next launch
  // would report.
  if (error != cudaSuccess) cudaGetLastError();
  check_cuda(error, file, function, line);
}

}  // namespace hyena

namespace hyena {

// The same value, but unknown to the compiler. So everything that depends on it is computed where it is used. Otherwise
// the compiler would compute the twiddles of all stages before the loop, and they would fill the registers.
HYENA_DEVICE int opaque(int value) {
  asm volatile("" : "+r"(value));
  return value;
}

}  // namespace hyena

#define HYENA_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                              \
  do {                                                                                            \
    ::hyena::launch_shared(kernel, shared_bytes, __FILE__, __func__, __LINE__);                   \
    kernel<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__);                                   \
    ::hyena::check_cuda(cudaGetLastError(), __FILE__, __func__, __LINE__);                        \
  } while (0)

#else

#include "cuda_emulation.h"

#endif

#include "../common/host_device.h"
#include "../common/view.h"

namespace hyena {

constexpr int64_t largest_grid = 2147483647;  // blocks along x
constexpr int64_t largest_grid_y = 65535;     // blocks along y and z

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace hyena
