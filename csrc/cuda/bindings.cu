// Registers the CUDA kernels for the ops that hyena_kernels/backends/cuda/schemas.py defines. All of them run on the
// current stream of the tensors' device. They allocate no memory and do not wait.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "../common/tensor_view.h"
#include "fftconv_long.h"
#include "fftconv_passes.h"
#include "fftconv_rows.h"
#include "fftconv_skip.h"
#include "implicit_filter.h"
#include "runtime.cuh"
#include "short_conv.h"

#if defined(__CUDACC__)

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

// Torch declares these functions for code compiled with USE_CUDA, which the headers of a torch without CUDA do not
// support. Beside such a torch, as in tests, the library is built with HYENA_TORCH_WITHOUT_CUDA and loads without them.
#if defined(HYENA_TORCH_WITHOUT_CUDA)
#define HYENA_OF_TORCH_CUDA __attribute__((weak))
#else
#define HYENA_OF_TORCH_CUDA
#endif

extern "C" {
HYENA_OF_TORCH_CUDA AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);
HYENA_OF_TORCH_CUDA AOTITorchError torch_c10_cuda_check_msg(int32_t err, const char* filename,
                                                            const char* function_name, uint32_t line_number,
                                                            bool include_device_assertions, char** error_msg);
HYENA_OF_TORCH_CUDA void torch_c10_cuda_free_error_msg(char* error_msg);
}

#define HYENA_DISPATCH_KEY CUDA

#else

#define HYENA_DISPATCH_KEY CPU

#endif

namespace hyena {

#if defined(__CUDACC__)

void check_cuda(int error, const char* file, const char* function, int line) {
  if (error == cudaSuccess) return;
  char* message = nullptr;
  torch_c10_cuda_check_msg(error, file, function, static_cast<uint32_t>(line), true, &message);
  if (message == nullptr) return;
  const std::string text(message);
  torch_c10_cuda_free_error_msg(message);
  throw std::runtime_error(text);
}

#endif

namespace {

using torch::stable::Tensor;
using Optional = std::optional<Tensor>;

#if defined(__CUDACC__)

// Makes the device of a tensor the current one as long as this object exists, and finds its current stream.
class OnDevice {
 public:
  explicit OnDevice(const Tensor& tensor) : guard_(tensor.get_device_index()) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
    stream_ = static_cast<Stream>(stream);
  }
  Stream stream() const { return stream_; }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  Stream stream_;
};

#else

struct OnDevice {
  explicit OnDevice(const Tensor&) {}
  Stream stream() const { return nullptr; }
};

#endif

void rows(Optional result, Optional du, Optional dpre_gate, Optional sums, Tensor u, Optional pre_gate, Tensor k,
          Optional skip, Optional dy, Optional post_gate, Optional factor, int64_t tap, int64_t points, int64_t chunk) {
  const OnDevice device(u);
  fftconv_rows({view(result), view(factor), view(du), view(dpre_gate), view(sums), view(u), view(pre_gate), view(dy),
                view(post_gate), view(k), view(skip), tap, chunk},
               points, device.stream());
}

void passes(Optional result, Optional du, Optional dpre_gate, Optional sums, Tensor u, Optional pre_gate, Tensor k,
            Optional skip, Optional dy, Optional post_gate, Optional factor, Tensor scratch, int64_t tap,
            int64_t points) {
  const OnDevice device(u);
  fftconv_passes({{view(result), view(factor), view(du), view(dpre_gate), view(sums), view(u), view(pre_gate), view(dy),
                   view(post_gate), view(k), view(skip), tap, 0},
                  view(scratch)},
                 points, device.stream());
}

void weight(Tensor rows, Tensor signal, Optional gate, Optional skip, int64_t tap, int64_t shift) {
  const OnDevice device(rows);
  fftconv_weight({view(rows), view(signal), view(gate), view(skip), tap, shift}, device.stream());
}

void product(Optional signal, Optional grad, Optional filter, Optional sum, bool accumulate, bool multiply_signal,
             bool turn_grad) {
  const OnDevice device(signal ? *signal : grad.value());
  fftconv_product({view(signal), view(grad), view(filter), view(sum), accumulate, multiply_signal, turn_grad},
                  device.stream());
}

void unweight(Tensor rows, Tensor y, Optional factor, Optional y2, Optional factor2, int64_t shift) {
  const OnDevice device(rows);
  fftconv_unweight({view(rows), view(y), view(factor), view(y2), view(factor2), shift}, device.stream());
}

void skip_gradient(Tensor sums, Tensor dy, Tensor u, Optional pre_gate, Optional post_gate) {
  const OnDevice device(u);
  fftconv_skip({view(sums), view(dy), view(u), view(pre_gate), view(post_gate)}, device.stream());
}

void convolve(Tensor y, Tensor x, Tensor weight, Optional bias, int64_t parts, int64_t x_part, int64_t row_part,
              int64_t y_part, bool pair) {
  const OnDevice device(x);
  short_conv_forward({view(y), view(x), view(weight), view(bias), parts, x_part, row_part, y_part, pair},
                     device.stream());
}

void convolve_backward(Optional dx, Optional sums, Tensor dy, Tensor x, Tensor weight, Optional bias, int64_t x_part,
                       int64_t row_part, int64_t dx_part, int64_t spans, bool pair) {
  const OnDevice device(x);
  short_conv_backward({view(dx), view(sums), view(dy), view(x), view(weight), view(bias), x_part, row_part, dx_part,
                       spans, pair},
                      device.stream());
}

void copy_transposed(Tensor y, Tensor x) {
  const OnDevice device(x);
  transpose({view(y), view(x)}, device.stream());
}

void filter(Tensor k, Tensor z, Tensor freq, Tensor w_in, Tensor b_in, Tensor w_hidden, Tensor b_hidden, Tensor w_out,
            Optional t, Optional deltas, double shift) {
  const OnDevice device(k);
  filter_forward({view(k), view(z), view(freq), view(w_in), view(b_in), view(w_hidden), view(b_hidden), view(w_out),
                  view(t), view(deltas), static_cast<float>(shift)},
                 device.stream());
}

void sine_of(Tensor sine, Tensor linear, Tensor freq) {
  const OnDevice device(linear);
  filter_sine({view(sine), view(linear), view(freq)}, device.stream());
}

void sine_backward(Tensor grad, Tensor sums, Tensor linear, Tensor freq) {
  const OnDevice device(linear);
  filter_sine_backward({view(grad), view(sums), view(linear), view(freq)}, device.stream());
}

void window(Tensor dh, Optional decayed, Tensor dk, Tensor t, Tensor deltas, double shift) {
  const OnDevice device(dk);
  filter_window({view(dh), view(decayed), view(dk), view(t), view(deltas), static_cast<float>(shift)},
                device.stream());
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hyena_kernels_ext, CompositeExplicitAutograd, m) {
  m.impl("fftconv_row_points", TORCH_BOX(&fftconv_rows_points));
  m.impl("fftconv_row_bytes", TORCH_BOX(&fftconv_rows_shared));
  m.impl("fftconv_passes_points", TORCH_BOX(&fftconv_passes_points));
  m.impl("fftconv_passes_bytes", TORCH_BOX(&fftconv_passes_shared));
  m.impl("fftconv_skip_spans", TORCH_BOX(&fftconv_skip_spans));
  m.impl("filter_blocks", TORCH_BOX(&filter_blocks));
}

// Two macros, because the key has to be expanded before it becomes part of a name.
#define HYENA_IMPLEMENT(library, key, m) STABLE_TORCH_LIBRARY_IMPL(library, key, m)

HYENA_IMPLEMENT(hyena_kernels_ext, HYENA_DISPATCH_KEY, m) {
  m.impl("fftconv_rows", TORCH_BOX(&rows));
  m.impl("fftconv_passes", TORCH_BOX(&passes));
  m.impl("fftconv_weight", TORCH_BOX(&weight));
  m.impl("fftconv_product", TORCH_BOX(&product));
  m.impl("fftconv_unweight", TORCH_BOX(&unweight));
  m.impl("fftconv_skip", TORCH_BOX(&skip_gradient));
  m.impl("short_conv_tiles", TORCH_BOX(&convolve));
  m.impl("short_conv_tiles_backward", TORCH_BOX(&convolve_backward));
  m.impl("transpose", TORCH_BOX(&copy_transposed));
  m.impl("filter", TORCH_BOX(&filter));
  m.impl("filter_sine", TORCH_BOX(&sine_of));
  m.impl("filter_sine_backward", TORCH_BOX(&sine_backward));
  m.impl("filter_window", TORCH_BOX(&window));
}

}  // namespace hyena
