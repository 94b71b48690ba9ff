// The kernel of fftconv_rows.h, and its launch
#pragma once

#include "fftconv_rows.h"
#include "row_convolution.cuh"
#include "row_memory.cuh"

namespace hyena {

// The rows of one channel in the tensors of a call. `exists` is false for a block's rows behind the last channel.
template <class Plan>
struct RowsInMemory {
  const FftconvRows& a;
  int64_t channel;
  bool exists;

  HYENA_DEVICE void load(Kind kind, int64_t b, int thread, Complex<float>* v) const {
    RowSource source;
    source.tap = -1;
    source.skip = 0.0f;
    source.shift = 0;
    source.two_sided = a.tap != 0;
    source.length = exists ? static_cast<int>(a.u.size[2]) : 0;
    if (kind == Kind::filter) {
      source.row = row_of(a.k, channel);
      source.gate = {nullptr, 0, Dtype::f32};
      source.length = exists ? static_cast<int>(a.k.size[1]) : 0;
      source.tap = a.skip.data && exists ? static_cast<int>(a.tap) : -1;
      if (source.tap >= 0) source.skip = load_element({a.skip.data, a.skip.stride[0], a.skip.dtype}, channel);
    } else if (kind == Kind::signal) {
      source.row = row_of(a.u, b, channel);
      source.gate = row_of(a.pre_gate, b, channel);
    } else {
      source.row = row_of(a.dy, b, channel);
      source.gate = row_of(a.post_gate, b, channel);
      source.shift = static_cast<int>(a.tap);
    }
    load_row<Plan>(thread, v, source);
  }

  HYENA_DEVICE void store(Kind kind, int64_t b, int thread, Complex<float>* v) const {
    const Row none = {nullptr, 0, Dtype::f32};
    RowTarget target = {none, none, none, none, exists ? static_cast<int>(a.u.size[2]) : 0, 0, a.tap != 0};
    if (kind == Kind::sum) {
      target.row = row_of(a.sums, blockIdx.y, channel);
      target.length = exists ? static_cast<int>(a.k.size[1]) : 0;
    } else if (kind == Kind::signal) {
      target.row = row_of(a.result, b, channel);
      target.factor = row_of(a.factor, b, channel);
      target.shift = static_cast<int>(a.tap);
    } else {
      target.row = row_of(a.du, b, channel);
      target.factor = row_of(a.pre_gate, b, channel);
      target.row2 = row_of(a.dpre_gate, b, channel);
      target.factor2 = row_of(a.u, b, channel);
    }
    store_row<Plan>(thread, v, target);
  }
};

// Block x takes the channels of its rows, block y a chunk of the batch.
template <class Plan>
__global__ void __launch_bounds__(Plan::block, row_blocks<Plan, RowKernel::tensors>)
    fftconv_rows_kernel(const __grid_constant__ FftconvRows a) {
  HYENA_DYNAMIC_SHARED(shared);
  const int row = threadIdx.x / Plan::threads;
  Complex<float>* planes = reinterpret_cast<Complex<float>*>(shared) + row * Plan::plane;
  const int64_t channel = static_cast<int64_t>(blockIdx.x) * Plan::rows + row;
  const int64_t first = blockIdx.y * a.chunk;
  const int64_t count = (first + a.chunk < a.u.size[0] ? first + a.chunk : a.u.size[0]) - first;
  const Wanted wants = {a.result.data != nullptr, a.du.data || a.dpre_gate.data, a.sums.data != nullptr};
  convolve<Plan>(RowsInMemory<Plan>{a, channel, channel < a.u.size[1]}, wants, static_cast<int>(first),
                 static_cast<int>(count), a.chunk > 1, planes,
                 reinterpret_cast<Complex<float>*>(shared + row_planes_bytes<Plan>));
}

template <class Plan>
void launch_fftconv_rows(const FftconvRows& args, Stream stream) {
  const int64_t blocks = ceil_div(args.u.size[1], Plan::rows), chunks = ceil_div(args.u.size[0], args.chunk);
  if (blocks > largest_grid || chunks > largest_grid_y) throw std::invalid_argument("fftconv: too many channels");
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(chunks));
  const int spectra = !args.sums ? 0 : args.chunk > 1 ? 2 : 1;
  const int shared = row_planes_bytes<Plan> + spectra * row_spectrum_bytes<Plan>;
  HYENA_LAUNCH(fftconv_rows_kernel<Plan>, grid, Plan::block, shared, stream, args);
}

}  // namespace hyena
