// The gradient of the skip of a long convolution.
#pragma once

#include "runtime.cuh"

namespace hyena {

// sums[b, c, s] = the sum of dy u pre_gate post_gate over the positions of span s, which begin at s · fftconv_span.
struct FftconvSkip {
  View sums;                 // (B, D, spans), float64
  View dy, u;                // (B, D, L)
  View pre_gate, post_gate;  // (B, D, L) or absent
};

// Positions that a block sums
constexpr int fftconv_span = 8192;

int64_t fftconv_skip_spans(int64_t length);

void fftconv_skip(const FftconvSkip& args, Stream stream);

}  // namespace hyena
