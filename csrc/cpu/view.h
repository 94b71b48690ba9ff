// Tensors as the kernels see them: a pointer, a dtype, and sizes and strides in elements. No torch in here, so that
// kernels are compiled without its headers and can be run from any program.
#pragma once

#include <cstdint>

namespace hyena {

enum class Dtype : int { f16, bf16, f32, f64 };

// Up to three dimensions; `data` is null for an absent optional tensor or for a gradient that nobody needs.
struct View {
  void* data = nullptr;
  Dtype dtype = Dtype::f32;
  std::int64_t size[3] = {1, 1, 1};
  std::int64_t stride[3] = {0, 0, 0};

  explicit operator bool() const { return data != nullptr; }
};

}  // namespace hyena
