// Sine and cosine in float32 without a table or a slow path: the filter network calls them for every position and unit.
#pragma once

#include <cmath>

#include "host_device.h"

namespace hyena {

// Up to here n is below 2^13, and its products with the first two parts of π below are exact.
constexpr float reduction_limit = 16384.0f;

struct Reduced {
  float value;  // x - n π in [-π/2, π/2]
  bool odd;     // whether n is
};

// Cody-Waite: π in three parts, of 8, 11 and 24 bits. Float64 beyond the limit; from 2^50 on, where neighbouring float32
// are millions of periods apart, the remainder is taken to be 0. That of NaN and the infinities is NaN.
HYENA_HOST_DEVICE Reduced reduced(float x) {
  if (fabsf(x) <= reduction_limit) {
    const float n = rintf(x * 0.318309886183790672f);
    float r = x - n * 3.140625f;
    r = r - n * 9.670257568359375e-4f;
    r = r - n * 6.2783295730e-7f;
    return {r, (static_cast<int>(n) & 1) != 0};
  }
  const double wide = x, n = rint(wide * 0.31830988618379067154), half = n * 0.5;
  if (!(fabs(wide) < 1125899906842624.0)) return {x - x, false};
  return {static_cast<float>(fma(-n, 1.2246467991473532e-16, fma(-n, 3.141592653589793116, wide))), rint(half) != half};
}

// sin and cos of x: an absolute error of 1.2e-7 up to |x| = 1000, of 3e-7 beyond.
HYENA_HOST_DEVICE float sine(float x) {
  const Reduced y = reduced(x);
  const float r = y.value, rr = r * r;
  float p = -2.3889859e-8f;
  p = p * rr + 2.7525562e-6f;
  p = p * rr - 1.9840874e-4f;
  p = p * rr + 8.3333310e-3f;
  p = p * rr - 1.6666667e-1f;
  p = p * rr * r + r;
  return y.odd ? -p : p;
}

HYENA_HOST_DEVICE float cosine(float x) {
  const Reduced y = reduced(x);
  const float rr = y.value * y.value;
  float p = -2.6051615e-7f;
  p = p * rr + 2.4760495e-5f;
  p = p * rr - 1.3888378e-3f;
  p = p * rr + 4.1666638e-2f;
  p = p * rr - 0.5f;
  p = p * rr + 1.0f;
  return y.odd ? -p : p;
}

}  // namespace hyena
