// k[:, n] = (w_out @ h_n) * (exp(-t[n] |deltas|) + shift) with a sine network h_n of position n, and its gradients. One
// set of kernels for each instruction set.
#pragma once

#include "view.h"

namespace hyena {

// All of one dtype, float32 or float64, which is the one computed in.
struct ImplicitFilterInputs {
  View z;                   // (L, E)
  View freq;                // (H,)
  View w_in, b_in;          // (H, E), (H,)
  View w_hidden, b_hidden;  // (M, H, H), (M, H)
  View w_out;               // (D, H)
  View t, deltas;           // (L,), (D,), or both absent: no window
  double shift = 0.0;
};

struct ImplicitFilterForward {
  View k;  // (D, L), contiguous
  ImplicitFilterInputs in;
};

// A gradient with a null pointer is not computed. All but dz and dt are sums over positions: first over those of each
// chunk of `chunk` positions, into a row of its own of `sums`, then over the chunks. Chunks do not depend on the number
// of threads, so neither do the results.
struct ImplicitFilterBackward {
  View dz, dfreq, dw_in, db_in, dw_hidden, db_hidden, dw_out, dt, ddeltas;  // contiguous
  View dk;  // (D, L)
  ImplicitFilterInputs in;
  View sums;  // (chunks, number of elements of all inputs but z and t), float64, contiguous
  std::int64_t chunk = 0;
};

struct ImplicitFilterKernels {
  std::int64_t tile;  // positions that `forward` counts in
  // Ranges of tiles, of chunks, and of elements of a row of `sums`; each may be cut up and run in parallel.
  void (*forward)(const ImplicitFilterForward&, std::int64_t first, std::int64_t last);
  void (*backward)(const ImplicitFilterBackward&, std::int64_t first, std::int64_t last);
  void (*add_chunks)(const ImplicitFilterBackward&, std::int64_t first, std::int64_t last);
};

extern const ImplicitFilterKernels implicit_filter_avx512, implicit_filter_avx2, implicit_filter_portable;

}  // namespace hyena
