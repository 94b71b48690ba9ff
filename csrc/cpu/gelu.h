// y = x / (1 + exp(-2 u)) with u = √(2/π) (x + 0.044715 x³): GELU by its tanh formula, without the tanh.
#pragma once

#include "../common/view.h"

namespace hyena {

// All tensors are contiguous, of one dtype and of `size[0]` elements in one dimension.
struct GeluForward {
  View y, x;
};

struct GeluBackward {
  View dx, dy, x;
};

// Each takes a range of elements, and ranges may run in parallel.
struct GeluKernels {
  void (*forward)(const GeluForward&, std::int64_t first, std::int64_t last);
  void (*backward)(const GeluBackward&, std::int64_t first, std::int64_t last);
};

extern const GeluKernels gelu_avx512, gelu_avx2, gelu_portable;

}  // namespace hyena
