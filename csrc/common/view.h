// Tensors as the kernels see them: a pointer, a dtype, and sizes and strides in elements. This needs no header of
// torch, so any program can compile and run the kernels.
#pragma once

#include <cstdint>

namespace hyena {

enum class Dtype : int { f16, bf16, f32, f64 };

// Up to three dimensions. `data` is null for an absent optional tensor, and for a gradient that is not needed.
struct View {
  void* data = nullptr;
  Dtype dtype = Dtype::f32;
  std::int64_t size[3] = {1, 1, 1};
  std::int64_t stride[3] = {0, 0, 0};

  explicit operator bool() const { return data != nullptr; }
};

}  // namespace hyena
