// Long convolutions whose transform fits on chip: a block takes rows of one or several channels through transform,
// product and inverse. y = post_gate * ((pre_gate * u) ⋆ (k + D at `tap`)), and its gradients.
#pragma once

#include "runtime.cuh"

namespace hyena {

// With F the weighted transform, x = pre_gate * u and g = post_gate * dy:
//   result = factor * F⁻¹(F k F x)              y with the factor post_gate, dpost_gate with the factor dy
//   dx = F⁻¹(conj(F k) F g)                     du = pre_gate * dx, dpre_gate = u * dx
//   sums = F⁻¹(sum over b of conj(F x) F g)     of each chunk of the batch, to be added up to dk
// One kernel serves forward and backward; what is absent is not computed.
struct FftconvRows {
  View result, factor, du, dpre_gate;  // (B, D, L) or absent
  View sums;                           // (chunks, D, K), float32, or absent
  View u, pre_gate;                    // (B, D, L), the gate or absent
  View dy, post_gate;                  // (B, D, L) or absent
  View k;                              // (D, K)
  View skip;                           // (D,) or absent
  int64_t tap;                         // index of the filter's tap of zero lag, the first output kept
  int64_t chunk;                       // batch entries of a block, which transforms the filter once for them
};

// Points of the smallest transform for a length, 0 if there is none.
int64_t fftconv_rows_points(int64_t length);

// Shared memory of a block, in bytes. With `sums` it keeps the spectrum of x there, and of chunks of more than one
// entry that of the sum as well: 0, 1 or 2 spectra.
int64_t fftconv_rows_shared(int64_t points, int64_t spectra);

void fftconv_rows(const FftconvRows& args, int64_t points, Stream stream);

}  // namespace hyena
