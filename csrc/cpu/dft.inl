// Transforms of a few points in registers: X[j] = sum_s x[s] exp(sign 2πi js / R), where each x[s] is a complex vector.
#pragma once

#include "simd.h"

namespace hyena {
namespace {

template <class T>
struct Complex {
  Vec<T> re, im;
};

template <class T>
HYENA_INLINE Complex<T> operator+(Complex<T> a, Complex<T> b) {
  return {a.re + b.re, a.im + b.im};
}

template <class T>
HYENA_INLINE Complex<T> operator-(Complex<T> a, Complex<T> b) {
  return {a.re - b.re, a.im - b.im};
}

// a * b, or a * conj(b). S is a scalar or a vector.
template <bool conjugate, class T, class S>
HYENA_INLINE Complex<T> times(Complex<T> a, S re, S im) {
  if constexpr (conjugate)
    return {a.re * re + a.im * im, a.im * re - a.re * im};
  else
    return {a.re * re - a.im * im, a.im * re + a.re * im};
}

// a * sign i
template <int sign, class T>
HYENA_INLINE Complex<T> times_i(Complex<T> a) {
  if constexpr (sign > 0)
    return {-a.im, a.re};
  else
    return {a.im, -a.re};
}

// cos and sin of 2π n / N, exact to the last bit of a double for every N that occurs.
constexpr double cosine(int n, int N) {
  n = (n % N + N) % N;
  if (2 * n > N) n = N - n;
  if (n == 0) return 1.0;
  if (2 * n == N) return -1.0;
  if (4 * n == N) return 0.0;
  if (4 * n > N) return -cosine(N - 2 * n, 2 * N);
  const double x = 2 * 3.14159265358979323846 * n / N;
  // The series of the cosine for an angle below π/2.
  double sum = 0.0, term = 1.0;
  for (int i = 1; i < 40; ++i) {
    sum += term;
    term *= -x * x / ((2 * i - 1) * (2 * i));
  }
  return sum;
}

// The same for all n, as constants for unrolled loops
template <int N>
struct Roots {
  double cos[N] = {}, sin[N] = {};
  constexpr Roots() {
    for (int n = 0; n < N; ++n) {
      cos[n] = cosine(n, N);
      sin[n] = cosine(4 * n - N, 4 * N);
    }
  }
};
template <int N>
constexpr Roots<N> roots;

template <int R, int sign, class T>
HYENA_INLINE void dft(Complex<T> (&x)[R]) {
  if constexpr (R == 2) {
    const Complex<T> a = x[0], b = x[1];
    x[0] = a + b;
    x[1] = a - b;
  } else if constexpr (R == 4) {
    const Complex<T> a = x[0] + x[2], b = x[0] - x[2], c = x[1] + x[3], d = times_i<sign>(x[1] - x[3]);
    x[0] = a + c;
    x[1] = b + d;
    x[2] = a - c;
    x[3] = b - d;
  } else if constexpr (R % 2 == 0) {
    Complex<T> even[R / 2], odd[R / 2];
#pragma GCC unroll 16
    for (int s = 0; s < R / 2; ++s) {
      even[s] = x[2 * s];
      odd[s] = x[2 * s + 1];
    }
    dft<R / 2, sign>(even);
    dft<R / 2, sign>(odd);
#pragma GCC unroll 16
    for (int j = 0; j < R / 2; ++j) {
      if (j == 0) {
        x[j] = even[j] + odd[j];
        x[j + R / 2] = even[j] - odd[j];
      } else if (4 * j == R) {
        const Complex<T> turned = times_i<sign>(odd[j]);
        x[j] = even[j] + turned;
        x[j + R / 2] = even[j] - turned;
      } else if (8 * j == R || 8 * j == 3 * R) {
        // An eighth of a turn has one factor for both parts, which becomes part of multiply-adds in the sums below.
        const T h = static_cast<T>(0.70710678118654752440);
        const Complex<T> i = times_i<sign>(odd[j]);
        const Complex<T> turned = 8 * j == R ? odd[j] + i : i - odd[j];
        x[j] = {even[j].re + h * turned.re, even[j].im + h * turned.im};
        x[j + R / 2] = {even[j].re - h * turned.re, even[j].im - h * turned.im};
      } else {
        const T c = static_cast<T>(roots<R>.cos[j]), s = static_cast<T>(sign * roots<R>.sin[j]);
        const Complex<T> turned = times<false>(odd[j], c, s);
        x[j] = even[j] + turned;
        x[j + R / 2] = even[j] - turned;
      }
    }
  } else {
    // Odd R: x[s] and x[R-s] have conjugate factors.
    Complex<T> plus[R / 2 + 1], minus[R / 2 + 1], sum = x[0];
#pragma GCC unroll 16
    for (int s = 1; s <= R / 2; ++s) {
      plus[s] = x[s] + x[R - s];
      minus[s] = times_i<sign>(x[s] - x[R - s]);
      sum = sum + plus[s];
    }
    const Complex<T> first = x[0];
    x[0] = sum;
#pragma GCC unroll 16
    for (int j = 1; j <= R / 2; ++j) {
      Complex<T> even = first, odd{};
#pragma GCC unroll 16
      for (int s = 1; s <= R / 2; ++s) {
        const T c = static_cast<T>(roots<R>.cos[j * s % R]), d = static_cast<T>(roots<R>.sin[j * s % R]);
        even = {even.re + c * plus[s].re, even.im + c * plus[s].im};
        odd = s == 1 ? Complex<T>{d * minus[s].re, d * minus[s].im}
                     : Complex<T>{odd.re + d * minus[s].re, odd.im + d * minus[s].im};
      }
      x[j] = even + odd;
      x[R - j] = even - odd;
    }
  }
}

}  // namespace
}  // namespace hyena
