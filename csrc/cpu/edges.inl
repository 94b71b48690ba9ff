// The first pass of the transform, which reads rows of tensors, and the last pass back, which writes rows.
//
// The pass combines R blocks. A short tile of each block is read into a buffer of the type that kernels compute in,
// which stays in the first-level cache. Dtypes, strides, gates and the zeros behind the end are handled there.
#pragma once

#include "transform.inl"

namespace hyena {
namespace {

constexpr std::int64_t tile_points = 256;

// A number that a generic lambda can use as a template argument. It is not std::integral_constant: see isa_avx512.h.
template <int n>
struct Constant {
  static constexpr int value = n;
};

template <class T>
struct Tile {
  alignas(64) T points[8][tile_points];
};

// out[i] = element at + i of the signal for i in 0 … n-1, zero outside 0 … length-1.
template <class T>
HYENA_INLINE void read_signal(T* out, const Row& signal, const Row& gate, std::int64_t at, std::int64_t n,
                              std::int64_t length) {
  const std::int64_t first = at < 0 ? -at : 0, end = at + n > length ? length - at : n;
  if (first >= end) {
    std::memset(out, 0, n * sizeof(T));
    return;
  }
  if (first > 0) std::memset(out, 0, first * sizeof(T));
  read_product(out + first, signal, gate, at + first, end - first);
  if (end < n) std::memset(out + end, 0, (n - end) * sizeof(T));
}

// A real signal whose element t is coefficient t + shift of a polynomial of degree below 2P.
struct Input {
  Row signal;
  Row gate{};                // a factor, or without data
  std::int64_t length = 0;
  std::int64_t shift = 0;
  const Row* skip = nullptr;  // one number to add to coefficient `tap`
  std::int64_t tap = 0;
};

template <class T>
void fill(T* out, const Input& in, std::int64_t coefficient, std::int64_t n) {
  read_signal(out, in.signal, in.gate, coefficient - in.shift, n, in.length);
  if (in.skip != nullptr && coefficient <= in.tap && in.tap < coefficient + n) {
    T skip;
    read<With::set>(&skip, *in.skip, 0, 1);
    out[in.tap - coefficient] += skip;
  }
}

template <int R, bool complex_input, class T>
void first_pass(const Plan<T>& plan, const Input& in, T* data) {
  Tile<T> real, imaginary;
  const std::int64_t m = plan.block;
  const T* twiddles = plan.top_twiddles;
  for (std::int64_t c = 0; c < m; c += tile_points) {
    const std::int64_t n = m - c < tile_points ? m - c : tile_points;
    for (int s = 0; s < R; ++s) {
      fill(real.points[s], in, s * m + c, n);
      if (complex_input) fill(imaginary.points[s], in, plan.points + s * m + c, n);
    }
    for (std::int64_t i = 0; i < n; i += width<T>) {
      Complex<T> x[R];
#pragma GCC unroll 16
      for (int s = 0; s < R; ++s) {
        const Vec<T> re = load(real.points[s] + i);
        const T a = twiddles[2 * s], b = twiddles[2 * s + 1];
        if constexpr (complex_input)
          x[s] = times<false>(Complex<T>{re, load(imaginary.points[s] + i)}, a, b);
        else
          x[s] = s == 0 ? Complex<T>{re, Vec<T>{}} : Complex<T>{re * a, re * b};
      }
      dft<R, 1>(x);
#pragma GCC unroll 16
      for (int s = 0; s < R; ++s) store_complex(data + 2 * (s * m + c + i), x[s]);
    }
  }
}

template <class T>
void first_pass(const Plan<T>& plan, const Input& in, T* data) {
  // The leaves read behind the last block, and the values there have to be finite.
  const std::int64_t padded = plan.groups * width<T> * width<T>;
  std::memset(data + 2 * plan.points, 0, 2 * (padded - plan.points) * sizeof(T));
  const bool complex_input = in.shift + in.length > plan.points;
  const auto run = [&](auto radix) {
    constexpr int R = decltype(radix)::value;
    complex_input ? first_pass<R, true>(plan, in, data) : first_pass<R, false>(plan, in, data);
  };
  switch (plan.top) {
    case 4: return run(Constant<4>());
    case 5: return run(Constant<5>());
    case 6: return run(Constant<6>());
    case 7: return run(Constant<7>());
    default: return run(Constant<8>());
  }
}

// Rows that receive the coefficients shift, shift + 1, … of a polynomial of degree below 2P, each times its factor if
// it has one.
struct Output {
  struct Target {
    Row row;
    Row factor;
  };
  Target targets[2];
  int count = 0;

  void add(const Row& row, const Row& factor) { targets[count++] = {row, factor}; }

  std::int64_t length = 0;
  std::int64_t shift = 0;
  double scale = 1.0;
};

template <class T>
void drain(const Output& out, const T* in, std::int64_t coefficient, std::int64_t n) {
  const std::int64_t at = coefficient - out.shift;
  const std::int64_t first = at < 0 ? -at : 0, end = at + n > out.length ? out.length - at : n;
  if (first >= end) return;
  for (int i = 0; i < out.count; ++i)
    write_product(out.targets[i].row, out.targets[i].factor, at + first, in + first, end - first);
}

template <int R, bool complex_output, class T>
void last_pass(const Plan<T>& plan, const T* data, const Output& out) {
  Tile<T> real, imaginary;
  const std::int64_t m = plan.block;
  T twiddles[2 * R];
  for (int s = 0; s < 2 * R; ++s) twiddles[s] = plan.top_twiddles[s] * static_cast<T>(out.scale);
  for (std::int64_t c = 0; c < m; c += tile_points) {
    const std::int64_t n = m - c < tile_points ? m - c : tile_points;
    for (std::int64_t i = 0; i < n; i += width<T>) {
      Complex<T> x[R];
#pragma GCC unroll 16
      for (int s = 0; s < R; ++s) x[s] = load_complex(data + 2 * (s * m + c + i));
      dft<R, -1>(x);
#pragma GCC unroll 16
      for (int s = 0; s < R; ++s) {
        const T a = twiddles[2 * s], b = twiddles[2 * s + 1];
        store(real.points[s] + i, x[s].re * a + x[s].im * b);
        if constexpr (complex_output) store(imaginary.points[s] + i, x[s].im * a - x[s].re * b);
      }
    }
    for (int s = 0; s < R; ++s) {
      drain(out, real.points[s], s * m + c, n);
      if (complex_output) drain(out, imaginary.points[s], plan.points + s * m + c, n);
    }
  }
}

template <class T>
void last_pass(const Plan<T>& plan, const T* data, const Output& out) {
  const bool complex_output = out.shift + out.length > plan.points;
  const auto run = [&](auto radix) {
    constexpr int R = decltype(radix)::value;
    complex_output ? last_pass<R, true>(plan, data, out) : last_pass<R, false>(plan, data, out);
  };
  switch (plan.top) {
    case 4: return run(Constant<4>());
    case 5: return run(Constant<5>());
    case 6: return run(Constant<6>());
    case 7: return run(Constant<7>());
    default: return run(Constant<8>());
  }
}

}  // namespace
}  // namespace hyena
