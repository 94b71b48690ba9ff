// Rows between memory and the registers of a transform: gates, padding, weights.
#pragma once

#include "element.cuh"
#include "row_transform.cuh"

namespace hyena {

// The polynomial sum_n (x[n - shift] + i x[n - shift + P]) z^n of x = row * gate, row zero outside 0 … length-1, and
// `skip` added to x[tap]. A shift is that of the gradient of results of which the first is number `shift` of all.
struct RowSource {
  Row row, gate;
  int length, shift;
  float skip;
  int tap;
};

// Real part of the coefficient t + shift, or imaginary part of t + shift - P, to row[t], times factor[t]; twice.
struct RowTarget {
  Row row, factor, row2, factor2;
  int length, shift;
};

template <class Plan>
HYENA_DEVICE void load_gated(float* value, const RowSource& source, int first) {
  using S = Stage<Plan, 0>;
  load_strided<S::radix>(value, source.row, first, S::distance, source.length);
  if (source.gate.data) {
    float gate[S::radix];
    load_strided<S::radix>(gate, source.gate, first, S::distance, source.length);
    HYENA_UNROLL
    for (int j = 0; j < S::radix; ++j) value[j] *= gate[j];
  }
}

template <class Plan>
HYENA_DEVICE void load_row(int thread, Complex<float>* v, const RowSource& source) {
  using S = Stage<Plan, 0>;
  for_butterflies<Plan, 0>(thread, v, [&](int b, int, Complex<float>* x) {
    float re[S::radix], im[S::radix];
    load_gated<Plan>(re, source, b - source.shift);
    HYENA_UNROLL
    for (int j = 0; j < S::radix; ++j) {
      if (b + j * S::distance == source.tap) re[j] += source.skip;
      im[j] = 0.0f;
    }
    if (source.shift) load_gated<Plan>(im, source, b - source.shift + Plan::points);
    unrolled<S::radix>([&](auto index) {
      constexpr int j = decltype(index)::value;
      // exp(2πi j m / 4P)
      x[j] = times_root<j, 4 * S::radix, true>(Complex<float>{re[j], im[j]});
    });
  });
}

template <int count>
HYENA_DEVICE void store_product(const float* value, const Row& row, const Row& factor, int first, int distance,
                                int length) {
  if (!row.data) return;
  if (!factor.data) return store_strided<count>(value, row, first, distance, length);
  float product[count];
  load_strided<count>(product, factor, first, distance, length);
  HYENA_UNROLL
  for (int j = 0; j < count; ++j) product[j] *= value[j];
  store_strided<count>(product, row, first, distance, length);
}

template <class Plan>
HYENA_DEVICE void store_row(int thread, Complex<float>* v, const RowTarget& target) {
  using S = Stage<Plan, 0>;
  for_butterflies<Plan, 0>(thread, v, [&](int b, int, Complex<float>* x) {
    float re[S::radix], im[S::radix];
    unrolled<S::radix>([&](auto index) {
      constexpr int j = decltype(index)::value;
      const Complex<float> z = times_root<j, 4 * S::radix, false>(x[j]);
      re[j] = z.re * (1.0f / Plan::points);
      im[j] = z.im * (1.0f / Plan::points);
    });
    const auto store = [&](const float* value, int first) {
      store_product<S::radix>(value, target.row, target.factor, first, S::distance, target.length);
      store_product<S::radix>(value, target.row2, target.factor2, first, S::distance, target.length);
    };
    store(re, b - target.shift);
    if (target.shift) store(im, b - target.shift + Plan::points);
  });
}

}  // namespace hyena
