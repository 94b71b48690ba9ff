// Discrete Fourier transforms of a few points in registers, in natural order:
// X[q] = sum_j v[j] exp(-2πi j q / R). The inverse has the other sign and no factor.
#pragma once

#include "complex.h"
#include "roots.h"

namespace hyena {

template <bool inverse, class T>
HYENA_HOST_DEVICE void dft2(Complex<T>& a, Complex<T>& b) {
  const Complex<T> sum = a + b;
  b = a - b;
  a = sum;
}

template <bool inverse, class T>
HYENA_HOST_DEVICE void dft3(Complex<T>& a, Complex<T>& b, Complex<T>& c) {
  constexpr T height = static_cast<T>(0.86602540378443864676);
  const Complex<T> sum = b + c, turned = height * quarter_turn<inverse>(b - c);
  const Complex<T> middle = a - static_cast<T>(0.5) * sum;
  a = a + sum;
  b = middle + turned;
  c = middle - turned;
}

template <bool inverse, class T>
HYENA_HOST_DEVICE void dft4(Complex<T>& a, Complex<T>& b, Complex<T>& c, Complex<T>& d) {
  const Complex<T> even = a + c, odd = b + d, left = a - c, right = quarter_turn<inverse>(b - d);
  a = even + odd;
  b = left + right;
  c = even - odd;
  d = left - right;
}

template <bool inverse, class T>
HYENA_HOST_DEVICE void dft5(Complex<T>& a, Complex<T>& b, Complex<T>& c, Complex<T>& d, Complex<T>& e) {
  constexpr T c1 = static_cast<T>(0.30901699437494742410), c2 = static_cast<T>(-0.80901699437494742410);
  constexpr T s1 = static_cast<T>(0.95105651629515357212), s2 = static_cast<T>(0.58778525229247312917);
  const Complex<T> p = b + e, q = c + d, m = b - e, n = c - d;
  const Complex<T> u = a + c1 * p + c2 * q, w = a + c2 * p + c1 * q;
  const Complex<T> x = quarter_turn<inverse>(s1 * m + s2 * n), y = quarter_turn<inverse>(s2 * m - s1 * n);
  a = a + p + q;
  b = u + x;
  c = w + y;
  d = w - y;
  e = u - x;
}

template <int R, bool inverse, class T>
HYENA_HOST_DEVICE void dft(Complex<T>* v);

// R = A B points: B transforms of A points, products with roots of unity, and A transforms of B points.
template <int A, int B, bool inverse, class T>
HYENA_HOST_DEVICE void dft_composite(Complex<T>* v) {
  Complex<T> columns[A * B];
  unrolled<B>([&](auto column) {
    constexpr int j = decltype(column)::value;
    Complex<T> x[A];
    unrolled<A>([&](auto i) { x[decltype(i)::value] = v[decltype(i)::value * B + j]; });
    dft<A, inverse>(x);
    unrolled<A>([&](auto i) {
      constexpr int q = decltype(i)::value;
      columns[q * B + j] = times_root<j * q, A * B, inverse>(x[q]);
    });
  });
  unrolled<A>([&](auto i) {
    constexpr int q = decltype(i)::value;
    dft<B, inverse>(columns + q * B);
    unrolled<B>([&](auto p) { v[q + A * decltype(p)::value] = columns[q * B + decltype(p)::value]; });
  });
}

template <int R, bool inverse, class T>
HYENA_HOST_DEVICE void dft(Complex<T>* v) {
  if constexpr (R == 2) {
    dft2<inverse>(v[0], v[1]);
  } else if constexpr (R == 3) {
    dft3<inverse>(v[0], v[1], v[2]);
  } else if constexpr (R == 4) {
    dft4<inverse>(v[0], v[1], v[2], v[3]);
  } else if constexpr (R == 5) {
    dft5<inverse>(v[0], v[1], v[2], v[3], v[4]);
  } else if constexpr (R == 8) {
    dft_composite<2, 4, inverse>(v);
  } else if constexpr (R == 16) {
    dft_composite<4, 4, inverse>(v);
  } else if constexpr (R % 3 == 0) {
    dft_composite<3, R / 3, inverse>(v);
  } else {
    static_assert(R % 5 == 0, "a radix is 2, 3, 4, 5, 8 or 16, or 3 or 5 times one of them");
    dft_composite<5, R / 5, inverse>(v);
  }
}

}  // namespace hyena
