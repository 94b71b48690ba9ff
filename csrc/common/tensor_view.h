// Converts tensors of torch's stable ABI to the views that kernels take.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <stdexcept>

#include "view.h"

namespace hyena {

inline Dtype dtype_of(const torch::stable::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case torch::headeronly::ScalarType::Half: return Dtype::f16;
    case torch::headeronly::ScalarType::BFloat16: return Dtype::bf16;
    case torch::headeronly::ScalarType::Float: return Dtype::f32;
    case torch::headeronly::ScalarType::Double: return Dtype::f64;
    default: throw std::runtime_error("hyena_kernels: a tensor has a dtype that the kernels do not take");
  }
}

inline View view(const torch::stable::Tensor& tensor) {
  View v;
  v.data = tensor.data_ptr();
  v.dtype = dtype_of(tensor);
  for (int64_t i = 0; i < tensor.dim(); ++i) {
    v.size[i] = tensor.size(i);
    v.stride[i] = tensor.stride(i);
  }
  return v;
}

inline View view(const std::optional<torch::stable::Tensor>& tensor) { return tensor ? view(*tensor) : View(); }

}  // namespace hyena
