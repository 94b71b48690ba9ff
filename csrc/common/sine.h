// Sine and cosine in float32, without a table and without a slow path. The filter network calls them for every position
// and unit.
#pragma once

#include <cmath>

#include "host_device.h"

namespace hyena {

// Up to this angle n is below 2^11, so its products with the first two parts of π below are exact.
constexpr float reduction_limit = 4096.0f;

struct Reduced {
  float value;  // x - (n + offset) π in [-π/2, π/2]
  bool odd;     // whether n is odd
};

// Cody-Waite reduction: π in three parts of 8, 11 and 24 bits. The order of the subtractions rounds the result once.
// Beyond the limit it computes in float64. From 2^50 on the remainder is 0, because neighbouring float32 numbers are
// millions of periods apart there. The remainder of NaN and the infinities is NaN. The offset is 0 or 1/2.
HYENA_HOST_DEVICE Reduced reduced(float x, float offset) {
  if (fabsf(x) <= reduction_limit) {
    const float n = rintf(x * 0.318309886183790672f - offset), m = n + offset;
    const float rest = m * 9.670257568359375e-4f + m * 6.2783295730e-7f;
    return {(x - m * 3.140625f) - rest, (static_cast<int>(n) & 1) != 0};
  }
  if (!(fabsf(x) < 1125899906842624.0f)) return {x - x, false};
  const double wide = x, n = rint(wide * 0.31830988618379067154 - offset), m = n + offset, half = n * 0.5;
  return {static_cast<float>(fma(-m, 1.2246467991473532e-16, fma(-m, 3.141592653589793116, wide))), rint(half) != half};
}

HYENA_HOST_DEVICE float sine_of(Reduced x) {
  const float r = x.value, rr = r * r;
  float p = -2.3889859e-8f;
  p = p * rr + 2.7525562e-6f;
  p = p * rr - 1.9840874e-4f;
  p = p * rr + 8.3333310e-3f;
  p = p * rr - 1.6666667e-1f;
  p = p * rr * r + r;
  return x.odd ? -p : p;
}

// sin and cos of x. The absolute error is 1.3e-7, from rounding the polynomial near its ends, and 2e-7 from 1000 to
// 4096. An error of the remainder matters most where the remainder is small. This is also true for the cosine: it is
// the sine of the remainder after an odd multiple of π/2.
HYENA_HOST_DEVICE float sine(float x) { return sine_of(reduced(x, 0.0f)); }

HYENA_HOST_DEVICE float cosine(float x) { return -sine_of(reduced(x, 0.5f)); }

}  // namespace hyena
