// Products of blocks of samples with a matrix whose rows are one array, shifted: a Toeplitz matrix, or a small basis.
//
// Lanes of vectors are neighbouring results. Some blocks take part in each load of coefficients, and their sums stay in
// registers.
#pragma once

#include "simd.h"

namespace hyena {
namespace {

#if HYENA_VECTOR_BYTES == 64
constexpr int block_rows = 8;  // blocks whose sums are in registers together, two vectors each
#else
constexpr int block_rows = 4;
#endif

// sum[r][v] += Σ_c in[r * in_row + c * in_step] · coefficients[c * step + v * width …], for c in first … last - 1 and
// for vectors v = from … to - 1.
template <int from, int to, int vectors, class T>
HYENA_INLINE void add_products(Vec<T> (&sum)[block_rows][vectors], const T* coefficients, std::int64_t step,
                               const T* in, std::int64_t in_row, std::int64_t in_step, std::int64_t first,
                               std::int64_t last) {
  constexpr std::int64_t W = Simd<T>::width;
  coefficients += first * step;
  in += first * in_step;
  for (std::int64_t c = first; c < last; ++c, coefficients += step, in += in_step) {
    Vec<T> k[vectors];
#pragma GCC unroll 4
    for (int v = from; v < to; ++v) k[v] = load_unaligned(coefficients + v * W);
#pragma GCC unroll 8
    for (int r = 0; r < block_rows; ++r) {
      const T x = in[r * in_row];
#pragma GCC unroll 4
      for (int v = from; v < to; ++v) sum[r][v] += x * k[v];
    }
  }
}

}  // namespace
}  // namespace hyena
