// What kernels and their launches need of CUDA. Under another compiler than nvcc the tests' header cuda_emulation.h
// stands in for it, and the same kernels run on the CPU.
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

// Throws with torch's message unless `error` is cudaSuccess; defined in bindings.cu.
void check_cuda(int error, const char* file, const char* function, int line);

// More than 48 KB of shared memory a block have to be asked for, on each device.
template <class Kernel>
void launch_shared(Kernel kernel, int bytes, const char* file, const char* function, int line) {
  if (bytes <= 48 * 1024) return;
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  // Torch clears the error of its own runtime, not that of the one that is linked in here: the next launch would find it.
  if (error != cudaSuccess) cudaGetLastError();
  check_cuda(error, file, function, line);
}

}  // namespace hyena

namespace hyena {

// The same value, of which the compiler knows nothing: what depends on it is computed where it is used, and not once
// for a whole loop, where twiddles of all stages would fill the registers.
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
#include "../cpu/view.h"

namespace hyena {

constexpr int64_t largest_grid = 2147483647;  // blocks in x
constexpr int64_t largest_grid_y = 65535;     // and in y and z

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace hyena
