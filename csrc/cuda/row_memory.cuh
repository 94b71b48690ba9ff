// Moves rows between memory and the registers of a transform, with gates, padding and weights.
#pragma once

#include "element.cuh"
#include "row_transform.cuh"

namespace hyena {

// The polynomial sum_n (x[n - shift] + i x[n - shift + P]) z^n, where x = row * gate. The row is zero outside 0 …
// length-1, and `skip` is added to x[tap]. The gradient of results has a shift if the first result is number `shift`.
// There are imaginary parts in two-sided convolutions alone: of the gradient, and of a filter of more than P taps. The
// condition is the same for all rows of a launch. One of each row would make registers spill.
struct RowSource {
  Row row, gate;
  int length, shift;
  bool two_sided;
  float skip;
  int tap;
};

// row[t] = factor[t] times the real part of coefficient t + shift, or the imaginary part of t + shift - P. The same for
// row2 and factor2.
struct RowTarget {
  Row row, factor, row2, factor2;
  int length, shift;
  bool two_sided;
};

// Whether one check covers all points of a butterfly, instead of one check per point (see `gather` in element.cuh).
// This needs registers. It would cost blocks or spill at constant distances, with few values per thread, and on GPUs
// after Hopper.
template <class Plan, class At>
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr bool asks_for_all = false;
#else
constexpr bool asks_for_all = At::is_column && Plan::values == 16;
#endif

template <int count, bool asks>
HYENA_DEVICE void load_gated(float* value, const RowSource& source, int first, int distance) {
  load_strided<count, asks>(value, source.row, first, distance, source.length);
  if (source.gate.data) {
    float gate[count];
    load_strided<count, asks>(gate, source.gate, first, distance, source.length);
    HYENA_UNROLL
    for (int j = 0; j < count; ++j) value[j] *= gate[j];
  }
}

template <class Plan, class At = WholeRow>
HYENA_DEVICE void load_row(int thread, Complex<float>* v, const RowSource& source, const At& at = At()) {
  using S = Stage<Plan, 0>;
  const int distance = at.distance(S::distance), points = at.distance(Plan::points);
  for_butterflies<Plan, 0>(thread, v, [&](int b, int, Complex<float>* x) {
    float re[S::radix], im[S::radix];
    const int first = at.place(b);
    load_gated<S::radix, asks_for_all<Plan, At>>(re, source, first - source.shift, distance);
    HYENA_UNROLL
    for (int j = 0; j < S::radix; ++j) {
      if (first + j * distance == source.tap) re[j] += source.skip;
      im[j] = 0.0f;
    }
    if (source.two_sided)
      load_gated<S::radix, asks_for_all<Plan, At>>(im, source, first - source.shift + points, distance);
    unrolled<S::radix>([&](auto index) {
      constexpr int j = decltype(index)::value;
      // exp(2πi j m / 4P)
      x[j] = times_root<j, 4 * S::radix, true>(Complex<float>{re[j], im[j]});
    });
  });
}

template <int count, bool asks>
HYENA_DEVICE void store_product(const float* value, const Row& row, const Row& factor, int first, int distance,
                                int length) {
  if (!row.data) return;
  if (!factor.data) return store_strided<count, asks>(value, row, first, distance, length);
  float product[count];
  load_strided<count, asks>(product, factor, first, distance, length);
  HYENA_UNROLL
  for (int j = 0; j < count; ++j) product[j] *= value[j];
  store_strided<count, asks>(product, row, first, distance, length);
}

template <class Plan, class At = WholeRow>
HYENA_DEVICE void store_row(int thread, Complex<float>* v, const RowTarget& target, const At& at = At()) {
  using S = Stage<Plan, 0>;
  const int distance = at.distance(S::distance), points = at.distance(Plan::points);
  const float scale = 1.0f / static_cast<float>(points);
  for_butterflies<Plan, 0>(thread, v, [&](int b, int, Complex<float>* x) {
    float re[S::radix], im[S::radix];
    unrolled<S::radix>([&](auto index) {
      constexpr int j = decltype(index)::value;
      const Complex<float> z = times_root<j, 4 * S::radix, false>(x[j]);
      re[j] = z.re * scale;
      im[j] = z.im * scale;
    });
    const auto store = [&](const float* value, int first) {
      store_product<S::radix, asks_for_all<Plan, At>>(value, target.row, target.factor, first, distance, target.length);
      store_product<S::radix, asks_for_all<Plan, At>>(value, target.row2, target.factor2, first, distance, target.length);
    };
    const int start = at.place(b) - target.shift;
    store(re, start);
    if (target.two_sided) store(im, start + points);
  });
}

}  // namespace hyena
