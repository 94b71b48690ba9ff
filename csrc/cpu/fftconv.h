// y = post_gate * ((pre_gate * u) ⋆ (k + D at `tap`)), and its gradients. There is one set of kernels for each
// instruction set.
#pragma once

#include "../common/view.h"

namespace hyena {

struct FftconvForward {
  View y, u;                  // (B, D, L)
  View k;                     // (D, K)
  View skip;                  // (D,) or absent
  View pre_gate, post_gate;   // (B, D, L) or absent
  std::int64_t tap = 0;       // index of the filter's tap with lag zero: 0 for a causal convolution
  bool wide = false;          // compute in float64, not in float32
};

// A gradient with a null pointer is not computed.
struct FftconvBackward {
  View du, dk, dskip, dpre_gate, dpost_gate;
  View dy, u, k, skip, pre_gate, post_gate;
  std::int64_t tap = 0;
  bool wide = false;
};

// Both take a range of channels, and ranges may run in parallel.
struct FftconvKernels {
  void (*forward)(const FftconvForward&, std::int64_t first, std::int64_t last);
  void (*backward)(const FftconvBackward&, std::int64_t first, std::int64_t last);
};

extern const FftconvKernels fftconv_avx512, fftconv_avx2, fftconv_portable;

}  // namespace hyena
