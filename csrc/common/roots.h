// Roots of unity exp(-2πi n / N): constants for butterflies, and twiddles that are computed at run time.
#pragma once

#include <cmath>

#include "complex.h"

namespace hyena {

constexpr double pi = 3.14159265358979323846;

struct Root {
  double re, im;
};

// exp(-2πi n / N), by Taylor series in an eighth of the circle
HYENA_HOST_DEVICE constexpr Root root_of_unity(int n, int N) {
  n = ((n % N) + N) % N;
  const int octant = (8 * n + N / 2) / N;  // the nearest multiple of N / 8
  const double x = 2 * pi * (8.0 * n - static_cast<double>(octant) * N) / (8.0 * N);
  double cosine = 0, sine = 0, term = 1;
  for (int k = 0; k < 24; ++k) {
    const double sign = (k / 2) % 2 ? -1 : 1;
    if (k % 2)
      sine += sign * term;
    else
      cosine += sign * term;
    term *= x / (k + 1);
  }
  constexpr double h = 0.70710678118654752440;
  constexpr double re[] = {1, h, 0, -h, -1, -h, 0, h}, im[] = {0, h, 1, h, 0, -h, -1, -h};
  const double a = re[octant % 8], b = im[octant % 8];
  return {a * cosine - b * sine, -(a * sine + b * cosine)};
}

// z * exp(-2πi n / N), with the conjugate root for the inverse. n and N are constants, and simple roots need few
// instructions.
template <int n, int N, bool inverse, class T>
HYENA_HOST_DEVICE Complex<T> times_root(Complex<T> z) {
  constexpr int m = ((n % N) + N) % N;
  if constexpr (m == 0) {
    return z;
  } else if constexpr (2 * m == N) {
    return {-z.re, -z.im};
  } else if constexpr (4 * m == N) {
    return quarter_turn<inverse>(z);
  } else if constexpr (4 * m == 3 * N) {
    return quarter_turn<!inverse>(z);
  } else {
    constexpr Root root = root_of_unity(m, N);
    constexpr T re = static_cast<T>(root.re), im = static_cast<T>(inverse ? -root.im : root.im);
    return {z.re * re - z.im * im, z.re * im + z.im * re};
  }
}

// exp(-2πi turns) in float32, for |turns| up to a few hundred. It adds an error of 1.2e-7 to that of `turns`.
HYENA_HOST_DEVICE Complex<float> unit_root(float turns) {
  const float quarters = 4.0f * turns;
  const float quadrant = rintf(quarters);
  const float x = (quarters - quadrant) * static_cast<float>(pi / 2), xx = x * x;
  // Polynomials with the least maximum error on [-π/4, π/4], from sinf and cosf of Cephes
  const float sine = x + x * xx * (-1.6666654611e-1f + xx * (8.3321608736e-3f - xx * 1.9515295891e-4f));
  const float cosine =
      1.0f - 0.5f * xx + xx * xx * (4.166664568298827e-2f + xx * (-1.388731625493765e-3f + xx * 2.443315711809948e-5f));
  const int q = static_cast<int>(quadrant) & 3;
  const float c = q & 1 ? sine : cosine, s = q & 1 ? cosine : sine;
  return {q == 1 || q == 2 ? -c : c, q & 2 ? s : -s};
}

HYENA_HOST_DEVICE Complex<double> unit_root(double turns) {
#if defined(__CUDA_ARCH__)
  double sine, cosine;
  sincospi(2 * turns, &sine, &cosine);
  return {cosine, -sine};
#else
  const double quarters = 4 * turns, quadrant = std::rint(quarters);
  const double x = (quarters - quadrant) * (pi / 2), sine = std::sin(x), cosine = std::cos(x);
  const int q = static_cast<int>(quadrant) & 3;
  const double c = q & 1 ? sine : cosine, s = q & 1 ? cosine : sine;
  return {q == 1 || q == 2 ? -c : c, q & 2 ? s : -s};
#endif
}

}  // namespace hyena
