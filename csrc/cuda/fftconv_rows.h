// Long convolutions whose transform fits on chip: y = post_gate * ((pre_gate * u) ⋆ (k + D at `tap`)), and its
// gradients. A block takes rows of one or several channels through transform, product and inverse.
#pragma once

#include "runtime.cuh"

namespace hyena {

// F is the weighted transform, x = pre_gate * u and g = post_gate * dy:
//   result = factor * F⁻¹(F k F x)              y if the factor is post_gate, dpost_gate if it is dy
//   dx = F⁻¹(conj(F k) F g)                     du = pre_gate * dx, dpre_gate = u * dx
//   sums = F⁻¹(sum over b of conj(F x) F g)     for each chunk of the batch; their sum is dk
// One kernel does forward and backward. Results that are absent are not computed.
struct FftconvRows {
  View result, factor, du, dpre_gate;  // (B, D, L) or absent
  View sums;                           // (chunks, D, K), float32, or absent
  View u, pre_gate;                    // (B, D, L); the gate may be absent
  View dy, post_gate;                  // (B, D, L) or absent
  View k;                              // (D, K)
  View skip;                           // (D,) or absent
  int64_t tap;                         // index of the filter's tap with lag zero, and of the first output kept
  int64_t chunk;                       // batch entries of a block, which transforms the filter once
};

// Points of the smallest transform for a length, or 0 if there is none
int64_t fftconv_rows_points(int64_t length);

// Shared memory of a block, in bytes. It holds the spectrum of x if `sums` is wanted, and also that of the sum if a
// chunk has more than one entry: 0, 1 or 2 spectra.
int64_t fftconv_rows_shared(int64_t points, int64_t spectra);

void fftconv_rows(const FftconvRows& args, int64_t points, Stream stream);

}  // namespace hyena
