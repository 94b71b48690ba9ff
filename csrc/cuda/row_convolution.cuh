// Transforms, products and inverses of the rows of one channel. `memory` reads and writes them.
#pragma once

#include "row_plans.cuh"
#include "row_transform.cuh"

namespace hyena {

// The results that are wanted: F⁻¹(F k F x), F⁻¹(conj(F k) F g) and F⁻¹(sum over b of conj(F x) F g)
struct Wanted {
  bool result, signal, filter;
};

enum class Kind { filter, signal, gradient, sum };

// One loop handles the filter, then the signal x and the gradient g of each of `count` batch entries, then the sum. So
// the code has only one copy of the transforms. memory.load(kind, b, thread, v) reads the values of the first stage,
// and memory.store(kind, b, thread, v) writes the results. Spectra are kept in shared memory from `spectra` on, where
// each thread reads only what it has written. Without `several` entries the spectrum of the sum replaces that of x.
template <class Plan, class Memory>
HYENA_DEVICE void convolve(const Memory& memory, const Wanted& wants, int first, int count, bool several,
                           Complex<float>* planes, Complex<float>* spectra) {
  Complex<float>*signal = spectra + threadIdx.x, *sum = signal + (several ? Plan::block * Plan::spectrum : 0);
  Complex<float> v[Plan::values], filter[Plan::spectrum];
  HYENA_NO_UNROLL
  for (int step = 0; step < 2 * count + 2; ++step) {
    const int thread = opaque(threadIdx.x % Plan::threads);
    const Kind kind = step == 0 ? Kind::filter
                      : step == 2 * count + 1 ? Kind::sum
                      : step % 2 == 1         ? Kind::signal
                                              : Kind::gradient;
    const int b = first + (step - 1) / 2;
    if (kind == Kind::sum) {
      if (!wants.filter) continue;
      // Other threads may still be reading for the inverse before.
      __syncthreads();
      HYENA_UNROLL
      for (int i = 0; i < Plan::spectrum; ++i) v[i] = sum[i * Plan::block];
    } else {
      if (kind == Kind::filter && !(wants.signal || wants.result)) continue;
      if (kind == Kind::signal && !(wants.filter || wants.result)) continue;
      if (kind == Kind::gradient && !(wants.filter || wants.signal)) continue;
      memory.load(kind, b, thread, v);
      transform<Plan>(thread, v, planes);
    }

    bool wants_inverse = kind == Kind::sum;
    if (kind == Kind::filter) {
      HYENA_UNROLL
      for (int i = 0; i < Plan::spectrum; ++i) filter[i] = v[i];
    } else if (kind == Kind::signal) {
      HYENA_UNROLL
      for (int i = 0; i < Plan::spectrum; ++i) {
        if (wants.filter) signal[i * Plan::block] = v[i];
        v[i] = v[i] * filter[i];
      }
      wants_inverse = wants.result;
    } else if (kind == Kind::gradient) {
      HYENA_UNROLL
      for (int i = 0; i < Plan::spectrum; ++i) {
        if (wants.filter) {
          const Complex<float> product = conj_times(signal[i * Plan::block], v[i]);
          sum[i * Plan::block] = b > first ? sum[i * Plan::block] + product : product;
        }
        v[i] = conj_times(filter[i], v[i]);
      }
      wants_inverse = wants.signal;
    }
    if (!wants_inverse) {
      // The next transform writes where other threads may still be reading.
      __syncthreads();
      continue;
    }
    inverse_transform<Plan>(thread, v, planes);
    memory.store(kind, b, thread, v);
  }
}

}  // namespace hyena
