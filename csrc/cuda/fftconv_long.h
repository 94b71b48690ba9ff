// Kernels before, between and after the transforms of cuFFT, for rows that do not fit on chip. They compute in float32
// or float64. Complex rows are tensors (B, D, 2 P) in which real and imaginary parts alternate.
#pragma once

#include "runtime.cuh"

namespace hyena {

// rows[n] = w[n] (x[n - shift] + i x[n - shift + P]), where w[n] = exp(2πi n / 4P) and x = signal * gate. x is zero
// outside its length, and the skip is added to x[tap].
struct FftconvWeight {
  View rows;
  View signal, gate;  // (B, D, L); the gate may be absent
  View skip;          // (D,) or absent
  int64_t tap, shift;
};

// sum = sum_b conj(signal) grad, added to the old sum if `accumulate`. Then grad *= conj(filter) if `turn_grad`, and
// signal *= filter if `multiply_signal`. Both are done in place. Tensors that are not needed may be absent.
struct FftconvProduct {
  View signal, grad;  // (B, D, 2 P)
  View filter, sum;   // (D, 2 P)
  bool accumulate, multiply_signal, turn_grad;
};

// y[t] = factor[t] times the real part of z[t + shift], or the imaginary part of z[t + shift - P], where
// z[n] = rows[n] / (w[n] P). y2 is the same with factor2.
struct FftconvUnweight {
  View rows;
  View y, factor, y2, factor2;  // (B, D, L); y2 and both factors may be absent
  int64_t shift;
};

void fftconv_weight(const FftconvWeight& args, Stream stream);
void fftconv_product(const FftconvProduct& args, Stream stream);
void fftconv_unweight(const FftconvUnweight& args, Stream stream);

}  // namespace hyena
