// The weighted transform of one row of P real or complex points by T threads, which hold the values in registers.
//
// X[q] = sum_n x[n] exp(-2πi n (4q - 1) / 4P). Multiplying such transforms convolves modulo z^P - i. Stage s has blocks
// of N_s = P / (R_0 … R_{s-1}) points. A butterfly transforms the points i + j m of a block, where m = N_s / R_s,
// multiplies the results with exp(-2πi i q / N_s), and puts them back in the same places. So a thread writes only where
// it alone has read, and the exchange between two stages takes one barrier.
//
// Spectra stay in the order of the last stage, in the registers of the thread that computed them. The inverse starts
// from there and goes through the same places backwards. The weight exp(2πi n / 4P) of n = i + j m is a product: the
// part of j is a constant, and the part of i belongs to the twiddles of the first stage.
//
// A longer transform of C · R points starts with transforms of its R columns. Point n of a column is point n R +
// (number of the column) of the whole row, which only the twiddles need to know. C rows of R points are left. Each has
// its own transform, without weights.
#pragma once

#include "../common/complex.h"
#include "../common/dft.h"
#include "../common/roots.h"
#include "runtime.cuh"

namespace hyena {

template <int Threads, int Rows, int... Radices>
struct RowPlan {
  static constexpr int threads = Threads;  // per row
  static constexpr int rows = Rows;        // per block, each with its own threads
  static constexpr int block = Threads * Rows;
  static constexpr int stages = sizeof...(Radices);
  static constexpr int points = (1 * ... * Radices);

  HYENA_HOST_DEVICE static constexpr int radix(int stage) {
    constexpr int radices[] = {Radices...};
    return radices[stage];
  }
  // Points of a block of the transform at a stage
  HYENA_HOST_DEVICE static constexpr int left(int stage) {
    int n = points;
    for (int s = 0; s < stage; ++s) n /= radix(s);
    return n;
  }
  // Butterflies per thread at a stage, rounded up
  HYENA_HOST_DEVICE static constexpr int each(int stage) { return (points / radix(stage) + Threads - 1) / Threads; }
  HYENA_HOST_DEVICE static constexpr int most_values() {
    int most = 0;
    for (int s = 0; s < stages; ++s) most = each(s) * radix(s) > most ? each(s) * radix(s) : most;
    return most;
  }
  // Complex numbers that a thread holds of a row, and of its spectrum
  static constexpr int values = most_values();
  static constexpr int spectrum = each(stages - 1) * radix(stages - 1);

  // The last stage reads runs as long as its radix. One more word after each run makes neighbouring threads read
  // different banks.
  HYENA_HOST_DEVICE static constexpr int padded(int place) { return place + place / radix(stages - 1); }
  static constexpr int plane = padded(points) + 3 & ~3;  // complex numbers in shared memory
  static constexpr int pitch = 1;                        // complex numbers between neighbouring places
  static constexpr bool weighted = true;
  static constexpr bool column = false;  // a column of a longer transform also has twiddles in its last stage
};

// Columns of a longer transform. They are the block's "rows", and neighbours in shared memory.
template <int Threads, int Columns, int... Radices>
struct ColumnPlan : RowPlan<Threads, Columns, Radices...> {
  using Base = RowPlan<Threads, Columns, Radices...>;
  static constexpr int pitch = Columns, plane = Base::padded(Base::points) * pitch;
  static constexpr bool column = true;
};

// The rows of a longer transform, after its columns
template <class Plan>
struct Unweighted : Plan {
  static constexpr bool weighted = false;
};

// The places of a plan's points in the whole transform. Here they are all of it.
struct WholeRow {
  static constexpr bool is_column = false;
  HYENA_DEVICE int place(int n) const { return n; }
  HYENA_DEVICE int distance(int n) const { return n; }
};

// They are one column of `rows`. `inverse` is 1 / rows.
struct ColumnOf {
  static constexpr bool is_column = true;
  int rows, column;
  float inverse;

  template <int left>
  HYENA_DEVICE float turns(int i) const {
    // The number is below 2^24, so only the product rounds. With a power of two of rows nothing rounds.
    return static_cast<float>(place(i)) * (inverse * (1.0f / left));
  }
  HYENA_DEVICE int place(int n) const { return n * rows + column; }
  HYENA_DEVICE int distance(int n) const { return n * rows; }
};

// The same with a constant number of rows. The points of a butterfly then have constant distances from its first point,
// which take no instructions.
template <int rows>
struct ColumnOfRows {
  static constexpr bool is_column = true;
  int column;

  template <int left>
  HYENA_DEVICE float turns(int i) const {
    return static_cast<float>(place(i)) * (1.0f / static_cast<float>(rows) * (1.0f / left));
  }
  HYENA_DEVICE int place(int n) const { return n * rows + column; }
  HYENA_DEVICE int distance(int n) const { return n * rows; }
};

template <class Plan, int s>
struct Stage {
  static constexpr int radix = Plan::radix(s), left = Plan::left(s), distance = left / radix;
  static constexpr int butterflies = Plan::points / radix, each = Plan::each(s);
  static constexpr bool full = butterflies % Plan::threads == 0;
  static constexpr int last_radix = Plan::radix(Plan::stages - 1);

  static_assert(Plan::stages == 1 || distance % last_radix == 0 || distance == 1, "places of a butterfly are a constant distance apart");
  static constexpr int padded_distance = distance == 1 ? 1 : Plan::padded(distance);
};

// Calls f(b, place, v) for each butterfly of a thread: its number, the padded place of its first value, and its values.
template <class Plan, int s, class F>
HYENA_DEVICE void for_butterflies(int thread, Complex<float>* v, F&& f) {
  using S = Stage<Plan, s>;
  unrolled<S::each>([&](auto index) {
    constexpr int e = decltype(index)::value;
    const int b = thread + e * Plan::threads;
    if (S::full || b < S::butterflies) {
      const int place = b / S::distance * S::left + b % S::distance;
      f(b, place + place / S::last_radix, v + e * S::radix);
    }
  });
}

// A table of the twiddles exp(-2πi i q / N) of places i in a block of N points, with the weights exp(2πi i / 4N) in the
// first stage. Neighbouring threads read neighbouring entries.
template <int N, int radix, bool weighted>
struct TwiddleTable {
  static constexpr int places = N / radix, first = weighted ? 0 : 1;
  Complex<float> roots[(radix - first) * places];

  constexpr TwiddleTable() : roots() {
    for (int q = first; q < radix; ++q) {
      // Powers in double. The error of the last one is 1e-12.
      const Root step = root_of_unity(4 * q - weighted, 4 * N);
      Root power = {1, 0};
      for (int i = 0; i < places; ++i) {
        roots[(q - first) * places + i] = {static_cast<float>(power.re), static_cast<float>(power.im)};
        power = {power.re * step.re - power.im * step.im, power.re * step.im + power.im * step.re};
      }
    }
  }
};

template <int N, int radix, bool weighted>
HYENA_DEVICE_TABLE TwiddleTable<N, radix, weighted> twiddle_table = TwiddleTable<N, radix, weighted>();

template <class Plan, int s, bool inverse>
HYENA_DEVICE void twiddle(int i, Complex<float>* v, const WholeRow&) {
  using S = Stage<Plan, s>;
  constexpr bool weighted = s == 0 && Plan::weighted;
  using Table = TwiddleTable<S::left, S::radix, weighted>;
  const Complex<float>* roots = twiddle_table<S::left, S::radix, weighted>.roots + i;
  HYENA_UNROLL
  for (int q = Table::first; q < S::radix; ++q) {
    const Complex<float> root = roots[(q - Table::first) * Table::places];
    v[q] = inverse ? conj_times(root, v[q]) : root * v[q];
  }
}

// The twiddles of columns are too many for a table. They are powers of two roots, with exponents 1 and 4. Longer chains
// of products would lose digits.
template <class Plan, int s, bool inverse, class Column>
HYENA_DEVICE void twiddle(int i, Complex<float>* v, const Column& at) {
  using S = Stage<Plan, s>;
  constexpr bool weighted = s == 0 && Plan::weighted;
  const float turns = at.template turns<S::left>(i);
  Complex<float> low[4];
  low[1] = unit_root(turns);
  low[2] = low[1] * low[1];
  low[3] = low[2] * low[1];
  if constexpr (weighted) {
    const Complex<float> weight = unit_root(turns * -0.25f);
    low[0] = weight;
    unrolled<3>([&](auto index) { low[decltype(index)::value + 1] = low[decltype(index)::value + 1] * weight; });
  }
  Complex<float> step = {1.0f, 0.0f}, high = step;
  if constexpr (S::radix > 4) step = high = unit_root(4.0f * turns);
  unrolled<S::radix>([&](auto index) {
    constexpr int q = decltype(index)::value;
    if constexpr (q >= 8 && q % 4 == 0) high = high * step;
    if constexpr (q > 0 || weighted) {
      Complex<float> root = low[q % 4];
      if constexpr (q >= 4 && q % 4 == 0 && !weighted)
        root = high;
      else if constexpr (q >= 4)
        root = root * high;
      v[q] = inverse ? conj_times(root, v[q]) : root * v[q];
    }
  });
}

// Computes the spectrum of the weighted values that `load` has put into the registers, in the places of the first
// stage.
template <class Plan, int s = 0, class At = WholeRow>
HYENA_DEVICE void transform(int thread, Complex<float>* v, Complex<float>* shared, const At& at = At()) {
  using S = Stage<Plan, s>;
  constexpr bool last = s == Plan::stages - 1;
  if constexpr (s > 0) {
    for_butterflies<Plan, s>(thread, v, [&](int, int place, Complex<float>* x) {
      HYENA_UNROLL
      for (int j = 0; j < S::radix; ++j) x[j] = shared[(place + j * S::padded_distance) * Plan::pitch];
    });
  }
  for_butterflies<Plan, s>(thread, v, [&](int b, int place, Complex<float>* x) {
    dft<S::radix, false>(x);
    if constexpr (!last || Plan::column) twiddle<Plan, s, false>(b % S::distance, x, at);
    if constexpr (!last) {
      HYENA_UNROLL
      for (int j = 0; j < S::radix; ++j) shared[(place + j * S::padded_distance) * Plan::pitch] = x[j];
    }
  });
  if constexpr (!last) {
    __syncthreads();
    transform<Plan, s + 1>(thread, v, shared, at);
  }
}

// Computes the inverse, without the factor 1 / P, and leaves the values where `store` takes them.
template <class Plan, int s = Plan::stages - 1, class At = WholeRow>
HYENA_DEVICE void inverse_transform(int thread, Complex<float>* v, Complex<float>* shared, const At& at = At()) {
  using S = Stage<Plan, s>;
  constexpr bool last = s == Plan::stages - 1;
  for_butterflies<Plan, s>(thread, v, [&](int b, int place, Complex<float>* x) {
    if constexpr (!last) {
      HYENA_UNROLL
      for (int j = 0; j < S::radix; ++j) x[j] = shared[(place + j * S::padded_distance) * Plan::pitch];
    }
    if constexpr (!last || Plan::column) twiddle<Plan, s, true>(b % S::distance, x, at);
    dft<S::radix, true>(x);
    if constexpr (s > 0) {
      HYENA_UNROLL
      for (int j = 0; j < S::radix; ++j) shared[(place + j * S::padded_distance) * Plan::pitch] = x[j];
    }
  });
  if constexpr (s > 0) {
    __syncthreads();
    inverse_transform<Plan, s - 1>(thread, v, shared, at);
  }
}

}  // namespace hyena
