// The kernel of fftconv_rows.h, and its launch.
#pragma once

#include "fftconv_rows.h"
#include "row_memory.cuh"
#include "row_plans.cuh"

namespace hyena {
// Block x takes the channels of its rows, block y a chunk of the batch. The loop goes once round for the filter, then
// for the signal and the gradient of each batch entry, and for the sum, so that the transforms are in the code once.
// Spectra that are put aside in shared memory are read by the thread that wrote them alone; with one entry in a chunk
// that of the sum replaces that of x.
template <class Plan>
__global__ void __launch_bounds__(Plan::block) fftconv_rows_kernel(const __grid_constant__ FftconvRows a) {
  HYENA_DYNAMIC_SHARED(shared);
  const int row = threadIdx.x / Plan::threads;
  float* planes = reinterpret_cast<float*>(shared) + row * 2 * Plan::plane;
  const int64_t channel = static_cast<int64_t>(blockIdx.x) * Plan::rows + row;
  const bool exists = channel < a.u.size[1];
  const int length = exists ? static_cast<int>(a.u.size[2]) : 0, taps = exists ? static_cast<int>(a.k.size[1]) : 0;
  const int tap = static_cast<int>(a.tap);
  const int64_t first = blockIdx.y * a.chunk;
  const int64_t count = (first + a.chunk < a.u.size[0] ? first + a.chunk : a.u.size[0]) - first;
  Complex<float>* signal = reinterpret_cast<Complex<float>*>(shared + row_planes_bytes<Plan>) + threadIdx.x;
  Complex<float>* sum = signal + (a.chunk > 1 ? Plan::block * Plan::spectrum : 0);

  const bool wants_signal = a.du.data || a.dpre_gate.data, wants_filter = a.sums.data, wants_result = a.result.data;
  const Row none = {nullptr, 0, Dtype::f32};
  Complex<float> v[Plan::values], filter[Plan::spectrum];
  HYENA_NO_UNROLL
  for (int64_t step = 0; step < 2 * count + 2; ++step) {
    const int thread = opaque(threadIdx.x % Plan::threads);
    const bool is_filter = step == 0, is_sum = step == 2 * count + 1, is_signal = !is_sum && step % 2 == 1;
    const int64_t b = first + (step - 1) / 2;
    if (is_sum) {
      if (!wants_filter) continue;
      // The inverse before it may still be reading.
      __syncthreads();
      HYENA_UNROLL
      for (int i = 0; i < Plan::spectrum; ++i) v[i] = sum[i * Plan::block];
    } else {
      RowSource source;
      source.tap = -1;
      source.skip = 0.0f;
      source.shift = 0;
      source.length = length;
      if (is_filter) {
        if (!(wants_signal || wants_result)) continue;
        source.row = row_of(a.k, channel);
        source.gate = none;
        source.length = taps;
        source.tap = a.skip.data && exists ? tap : -1;
        if (source.tap >= 0) source.skip = load_element({a.skip.data, a.skip.stride[0], a.skip.dtype}, channel);
      } else if (is_signal) {
        if (!(wants_filter || wants_result)) continue;
        source.row = row_of(a.u, b, channel);
        source.gate = row_of(a.pre_gate, b, channel);
      } else {
        if (!(wants_filter || wants_signal)) continue;
        source.row = row_of(a.dy, b, channel);
        source.gate = row_of(a.post_gate, b, channel);
        source.shift = tap;
      }
      load_row<Plan>(thread, v, source);
      transform<Plan>(thread, v, planes);
    }

    bool wants_inverse = is_sum;
    if (is_filter) {
      HYENA_UNROLL
      for (int i = 0; i < Plan::spectrum; ++i) filter[i] = v[i];
    } else if (is_signal) {
      HYENA_UNROLL
      for (int i = 0; i < Plan::spectrum; ++i) {
        if (wants_filter) signal[i * Plan::block] = v[i];
        v[i] = v[i] * filter[i];
      }
      wants_inverse = wants_result;
    } else if (!is_sum) {
      HYENA_UNROLL
      for (int i = 0; i < Plan::spectrum; ++i) {
        if (wants_filter) {
          const Complex<float> product = conj_times(signal[i * Plan::block], v[i]);
          sum[i * Plan::block] = b > first ? sum[i * Plan::block] + product : product;
        }
        v[i] = conj_times(filter[i], v[i]);
      }
      wants_inverse = wants_signal;
    }
    if (!wants_inverse) {
      // The next transform begins to write where others may still read.
      __syncthreads();
      continue;
    }
    inverse_transform<Plan>(thread, v, planes);

    RowTarget target = {none, none, none, none, length, 0};
    if (is_sum) {
      target.row = row_of(a.sums, blockIdx.y, channel);
      target.length = taps;
    } else if (is_signal) {
      target.row = row_of(a.result, b, channel);
      target.factor = row_of(a.factor, b, channel);
      target.shift = tap;
    } else {
      target.row = row_of(a.du, b, channel);
      target.factor = row_of(a.pre_gate, b, channel);
      target.row2 = row_of(a.dpre_gate, b, channel);
      target.factor2 = row_of(a.u, b, channel);
    }
    store_row<Plan>(thread, v, target);
  }
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
