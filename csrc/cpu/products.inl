// Products of small matrices. The left one is packed in panels of rows. The lanes of vectors are columns of the right
// one.
//
// A panel of rows times two vectors of columns stays in registers. Weights are packed in the order in which the loop
// reads them.
#pragma once

#include "simd.h"

namespace hyena {
namespace {

#if HYENA_VECTOR_BYTES == 64
constexpr int panel = 8;  // rows of a product that are in registers together: 8 × 2 sums
#elif HYENA_VECTOR_BYTES == 32
constexpr int panel = 6;
#else
constexpr int panel = 4;
#endif

template <class T>
constexpr std::int64_t width = Simd<T>::width;

HYENA_INLINE std::int64_t round_up(std::int64_t n, std::int64_t unit) { return (n + unit - 1) / unit * unit; }

HYENA_INLINE std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

// Hands out arrays one after the other from the memory at `base`. With a null base it only counts the bytes.
struct Arrays {
  char* base;
  std::size_t used = 0;

  template <class T>
  T* take(std::int64_t count) {
    T* array = base ? reinterpret_cast<T*>(base + used) : nullptr;
    used += static_cast<std::size_t>(round_up(count * static_cast<std::int64_t>(sizeof(T)), 64));
    return array;
  }
};

// sum[r][v] += Σ_k left[r, k] · right[k, v]. Element (r, k) of left is at index r row + k step.
template <int vectors, int row, int step, class T>
HYENA_INLINE void multiply_panel(const T* left, const T* right, std::int64_t right_stride, std::int64_t depth,
                                 Vec<T> (&sum)[panel][vectors]) {
  for (std::int64_t k = 0; k < depth; ++k) {
    Vec<T> x[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) x[v] = load(right + k * right_stride + v * width<T>);
#pragma GCC unroll 16
    for (int r = 0; r < panel; ++r) {
      const T factor = left[r * row + k * step];
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) sum[r][v] += factor * x[v];
    }
  }
}

// The right matrix of a product, and where the result goes. Strides lie between rows and count elements.
template <class T>
struct Product {
  const T* right;
  std::int64_t right_stride, depth, columns;
  T* out;
  std::int64_t out_stride;
  const T* bias = nullptr;  // one number per row
  bool add = false;         // add the product to `out`
};

template <int vectors, int row, int step, class T>
HYENA_INLINE void multiply_columns(const T* left, const Product<T>& p, const T* bias, std::int64_t column, T* out) {
  Vec<T> sum[panel][vectors];
#pragma GCC unroll 16
  for (int r = 0; r < panel; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) sum[r][v] = Vec<T>{};
  }
  if (bias) {
    // These sums are arguments of a sine with a high frequency. Adding them up in parts makes rounding errors smaller.
    constexpr std::int64_t part = 16;
    for (std::int64_t k = 0; k < p.depth; k += part) {
      Vec<T> some[panel][vectors] = {};
      multiply_panel<vectors, row, step>(left + k * step, p.right + k * p.right_stride + column, p.right_stride,
                                         least(part, p.depth - k), some);
      for (int r = 0; r < panel; ++r) {
        for (int v = 0; v < vectors; ++v) sum[r][v] += some[r][v];
      }
    }
  } else {
    multiply_panel<vectors, row, step>(left, p.right + column, p.right_stride, p.depth, sum);
  }
#pragma GCC unroll 16
  for (int r = 0; r < panel; ++r) {
    T* to = out + r * p.out_stride + column;
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      // The bias comes last, as in plain PyTorch.
      if (bias) sum[r][v] += bias[r];
      if (p.add) sum[r][v] += load(to + v * width<T>);
      store(to + v * width<T>, sum[r][v]);
    }
  }
}

// Multiplies several panels of left with the right matrix. Panels are `left_panel` elements apart.
template <int row, int step, class T>
__attribute__((noinline)) void multiply(const T* left, std::int64_t left_panel, std::int64_t panels,
                                        const Product<T>& p) {
  for (std::int64_t i = 0; i < panels; ++i) {
    const T* from = left + i * left_panel;
    const T* bias = p.bias ? p.bias + i * panel : nullptr;
    T* out = p.out + i * panel * p.out_stride;
    std::int64_t column = 0;
    for (; column + 2 * width<T> <= p.columns; column += 2 * width<T>)
      multiply_columns<2, row, step>(from, p, bias, column, out);
    if (column < p.columns) multiply_columns<1, row, step>(from, p, bias, column, out);
  }
}

// A matrix in panels of `panel` rows. A panel holds its elements of column 0, then those of column 1, and so on.
template <class T>
struct Packed {
  T* data;
  std::int64_t rows, depth;

  Packed(Arrays& arrays, std::int64_t rows, std::int64_t depth)
      : data(arrays.take<T>(round_up(rows, panel) * depth)), rows(rows), depth(depth) {}

  std::int64_t panels() const { return round_up(rows, panel) / panel; }

  template <class From>
  void pack(const From* from, std::int64_t row_stride, std::int64_t column_stride) const {
    T* to = data;
    for (std::int64_t i = 0; i < rows; i += panel) {
      for (std::int64_t k = 0; k < depth; ++k) {
        for (std::int64_t r = i; r < i + panel; ++r)
          *to++ = r < rows ? static_cast<T>(from[r * row_stride + k * column_stride]) : T(0);
      }
    }
  }

  // Multiplies columns first … first + p.depth - 1 with p's right matrix.
  void times(const Product<T>& p, std::int64_t first = 0) const {
    multiply<1, panel>(data + first * panel, depth * panel, panels(), p);
  }
};

}  // namespace
}  // namespace hyena
