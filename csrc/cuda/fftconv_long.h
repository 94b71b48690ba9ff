// What surrounds the transforms of cuFFT where a row does not fit on chip, in float32 or float64: complex rows are
// tensors (B, D, 2 P) of real and imaginary parts in turn.
#pragma once

#include "runtime.cuh"

namespace hyena {

// rows[n] = w[n] (x[n - shift] + i x[n - shift + P]) with x = signal * gate, zero outside its length, skip added to
// x[tap], and w[n] = exp(2πi n / 4P).
struct FftconvWeight {
  View rows;
  View signal, gate;  // (B, D, L), the gate or absent
  View skip;          // (D,) or absent
  int64_t tap, shift;
};

// sum = sum_b conj(signal) grad, added to what it holds if `accumulate`; then grad *= conj(filter) if `turn_grad`, and
// signal *= filter if `multiply_signal`. In place; what is not needed may be absent.
struct FftconvProduct {
  View signal, grad;  // (B, D, 2 P)
  View filter, sum;   // (D, 2 P)
  bool accumulate, multiply_signal, turn_grad;
};

// Of z[n] = rows[n] / (w[n] P): the real part of n = t + shift, or the imaginary part of n = t + shift - P, times
// factor[t], to y[t]; twice.
struct FftconvUnweight {
  View rows;
  View y, factor, y2, factor2;  // (B, D, L); the second may be absent, as may the factors
  int64_t shift;
};

void fftconv_weight(const FftconvWeight& args, Stream stream);
void fftconv_product(const FftconvProduct& args, Stream stream);
void fftconv_unweight(const FftconvUnweight& args, Stream stream);

}  // namespace hyena
