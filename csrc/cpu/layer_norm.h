// LayerNorm of rows, with the sum of two rows before it, and its gradients. There is one set of kernels for each
// instruction set.
#pragma once

#include "../common/view.h"

namespace hyena {

// y = (s - mean(s)) / sqrt(variance(s) + eps) * weight + bias with s = residual + x, row by row. All tensors but the
// last two are (N, D).
struct LayerNormForward {
  View y;         // contiguous rows
  View total;     // s, contiguous; absent without x
  View residual;
  View x;         // perhaps absent
  View weight, bias;  // (D,)
  double eps = 0.0;
  bool wide = false;  // computed in float64
};

// Gradients of y and s in, those of the residual and its copy in another dtype out. A result with a null pointer is not
// computed. Those of weight and bias are sums over rows. `backward` adds up each chunk of `chunk` rows into its own row
// of `sums`, and `add_chunks` adds up the rows. The chunks do not depend on the number of threads, so the results do not
// either.
struct LayerNormBackward {
  View dresidual, copy;  // contiguous
  View dweight, dbias;   // (D,), contiguous
  View sums;             // (chunks, 2 D), float64, contiguous: sums for the weight, then for the bias; perhaps absent
  View dy, dtotal;       // dtotal perhaps absent
  View residual;         // s
  View weight;
  double eps = 0.0;
  std::int64_t chunk = 0;
  bool wide = false;
};

struct LayerNormKernels {
  // They take ranges of rows, of chunks and of columns. Ranges may run in parallel.
  void (*forward)(const LayerNormForward&, std::int64_t first, std::int64_t last);
  void (*backward)(const LayerNormBackward&, std::int64_t first, std::int64_t last);
  void (*add_chunks)(const LayerNormBackward&, std::int64_t first, std::int64_t last);
};

extern const LayerNormKernels layer_norm_avx512, layer_norm_avx2, layer_norm_portable;

}  // namespace hyena
