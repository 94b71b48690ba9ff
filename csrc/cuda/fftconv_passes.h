// Long convolutions in three passes over memory: transforms of columns, transforms of rows with the products, and back.
#pragma once

#include "fftconv_rows.h"

namespace hyena {

// The fields have the meaning of FftconvRows, except for `chunk`: a call sums over its whole batch. A row of the
// filter, the signal or the gradient has P = C · R points, which are in `scratch` as C rows of R points.
struct FftconvPasses {
  FftconvRows rows;
  View scratch;  // (rows, 2 P), float32: 1 + B + B rows per channel of a slice, and 1 + B without dy
};

// Points of the shortest transform for a length, or 0 if there is none
int64_t fftconv_passes_points(int64_t length);

// Shared memory of a block of the middle pass, in bytes. It has as many spectra as fftconv_rows_shared with the whole
// batch as its chunk.
int64_t fftconv_passes_shared(int64_t points, int64_t spectra);

// Processes the channels in slices, as many channels at a time as fit into the scratch.
void fftconv_passes(const FftconvPasses& args, int64_t points, Stream stream);

}  // namespace hyena
