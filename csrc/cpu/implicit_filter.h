// k[:, n] = (w_out @ h_n) * (exp(-t[n] |deltas|) + shift), where h_n is a sine network of position n, and its
// gradients. There is one set of kernels for each instruction set.
#pragma once

#include "../common/view.h"

namespace hyena {

// All tensors have one dtype, float32 or float64. Kernels compute in it.
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

// A gradient with a null pointer is not computed. All gradients but dz and dt are sums over positions. `backward` adds
// up each chunk of `chunk` positions into its own row of `sums`, and `add_chunks` adds up the rows. The chunks do not
// depend on the number of threads, so the results do not either.
struct ImplicitFilterBackward {
  View dz, dfreq, dw_in, db_in, dw_hidden, db_hidden, dw_out, dt, ddeltas;  // contiguous
  View dk;  // (D, L)
  ImplicitFilterInputs in;
  View sums;  // (chunks, number of elements of all inputs but z and t), float64, contiguous
  std::int64_t chunk = 0;
};

struct ImplicitFilterKernels {
  std::int64_t tile;  // positions of a tile: `forward` takes a range of tiles
  // They take ranges of tiles, of chunks, and of elements of a row of `sums`. Ranges may run in parallel.
  void (*forward)(const ImplicitFilterForward&, std::int64_t first, std::int64_t last);
  void (*backward)(const ImplicitFilterBackward&, std::int64_t first, std::int64_t last);
  void (*add_chunks)(const ImplicitFilterBackward&, std::int64_t first, std::int64_t last);
};

extern const ImplicitFilterKernels implicit_filter_avx512, implicit_filter_avx2, implicit_filter_portable;

}  // namespace hyena
