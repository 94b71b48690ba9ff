// Long convolutions in three passes over memory: transforms of columns, of the rows that they leave, and back.
#pragma once

#include "fftconv_rows.h"

namespace hyena {

// What is computed is that of FftconvRows, `chunk` apart: a call sums over its whole batch. The P = C · R points of a
// row of the filter, the signal or the gradient lie in `scratch` as C rows of R.
struct FftconvPasses {
  FftconvRows rows;
  View scratch;  // (rows, 2 P), float32: (1 + B + B) rows a channel of a slice, without the last B where there is no dy
};

// Points of the shortest transform for a length, 0 if it is longer than all of them.
int64_t fftconv_passes_points(int64_t length);

// Shared memory of a block of the middle pass, in bytes, with as many spectra as for fftconv_rows_shared, where the whole
// batch of a call is the chunk.
int64_t fftconv_passes_shared(int64_t points, int64_t spectra);

// Takes the channels in slices, as many at a time as the scratch has room for.
void fftconv_passes(const FftconvPasses& args, int64_t points, Stream stream);

}  // namespace hyena
