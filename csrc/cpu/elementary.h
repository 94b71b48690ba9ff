// Sine, cosine and exponential of vectors.
//
// The error of sine and cosine is below 1.2e-7 in float32 and 4e-16 in float64, for angles of any size. Angles beyond
// Elementary<T>::largest_angle have to go through libm_sine() and libm_cosine(). The error of the exponential is at
// most 1.5 units in the last place, also where the result is subnormal.
// tests/hyena_kernels/backends/cpp/test_implicit_filter.py measures these errors.
#pragma once

#include "simd.h"

namespace hyena {
namespace {

// The polynomials interpolate at the Chebyshev points of the interval of reduced arguments.
template <class T>
struct Elementary;

template <>
struct Elementary<float> {
  // π in three parts. The first two have 12 bits each, so their products with integers below 2^12 are exact. The result
  // is then the same with and without fused multiply-add.
  static constexpr float pi[3] = {3.1416015625f, -8.907169103622437e-06f, -1.7411031505432106e-09f};
  static constexpr float largest_angle = 12800.0f;
  static constexpr float sine[] = {-0.1666666716337204f, 0.00833333283662796f, -0.00019841086759697646f,
                                   2.7536455036170082e-06f, -2.4080000216031294e-08f};
  static constexpr float cosine[] = {-0.5f, 0.0416666604578495f, -0.0013888651737943292f, 2.4774568373686634e-05f,
                                     -2.62972719156096e-07f};
  static constexpr float ln2[2] = {0.693145751953125f, 1.428606765330187e-06f};
  static constexpr float exponential[] = {0.5f, 0.16666576266288757f, 0.04166655242443085f, 0.00836323294788599f,
                                          0.0013926250394433737f};
  static constexpr float lowest_power = -105.0f, highest_power = 90.0f;
  static constexpr int mantissa = 23, bias = 127;
  // Adding this to a number far below 2^22 leaves the nearest integer in the last bits.
  static constexpr float integer = 12582912.0f;
  static constexpr std::int32_t integer_bits = 0x4b400000;
};

template <>
struct Elementary<double> {
  // As in float32, with 33 bits and integers below 2^20.
  static constexpr double pi[3] = {3.1415926534682512, 1.2154201012607932e-10, 4.044532497591901e-21};
  static constexpr double largest_angle = 3.0e6;
  static constexpr double sine[] = {-0.16666666666666666,   0.008333333333333333,   -0.00019841269841269806,
                                    2.7557319223971247e-06, -2.5052108382388368e-08, 1.6059043479134437e-10,
                                    -7.647139107307692e-13, 2.8104683856171073e-15, -8.006027518524349e-18};
  static constexpr double cosine[] = {-0.5,
                                      0.041666666666666664,
                                      -0.001388888888888889,
                                      2.4801587301587224e-05,
                                      -2.755731922396529e-07,
                                      2.087675698475013e-09,
                                      -1.14707453103688e-11,
                                      4.779460934133367e-14,
                                      -1.5613547222761075e-16,
                                      4.001935420412541e-19};
  static constexpr double ln2[2] = {0.6931471805598903, 5.497923018708371e-14};
  static constexpr double exponential[] = {0.5,
                                           0.1666666666666667,
                                           0.04166666666666667,
                                           0.008333333333326084,
                                           0.0013888888888883711,
                                           0.0001984126987500228,
                                           2.480158732567746e-05,
                                           2.755725517000089e-06,
                                           2.755727347871858e-07,
                                           2.5105312729622103e-08,
                                           2.09147553258932e-09};
  static constexpr double lowest_power = -746.0, highest_power = 711.0;
  static constexpr int mantissa = 52, bias = 1023;
  static constexpr double integer = 6755399441055744.0;
  static constexpr std::int64_t integer_bits = 0x4338000000000000;
};

template <class T>
HYENA_INLINE Vec<T> broadcast(T value) {
  return value - Vec<T>{};
}

template <class T, int terms>
HYENA_INLINE Vec<T> polynomial(const T (&coefficients)[terms], Vec<T> x) {
  Vec<T> sum = broadcast(coefficients[terms - 1]);
#pragma GCC unroll 16
  for (int i = terms - 2; i >= 0; --i) sum = sum * x + coefficients[i];
  return sum;
}

template <class T>
using Bits = typename Simd<T>::Index;

HYENA_INLINE float libm_sine(float x) { return ::sinf(x); }
HYENA_INLINE double libm_sine(double x) { return ::sin(x); }
HYENA_INLINE float libm_cosine(float x) { return ::cosf(x); }
HYENA_INLINE double libm_cosine(double x) { return ::cos(x); }

// x = q π + rest with |rest| ≤ π/2, and `sign` is the sign bit of (-1)^q. |x| is at most Elementary<T>::largest_angle.
template <class T>
HYENA_INLINE void reduce(Vec<T> x, Vec<T>& rest, Bits<T>& sign) {
  using E = Elementary<T>;
  const Vec<T> shifted = x * T(0.31830988618379067154) + E::integer;
  const Vec<T> q = shifted - E::integer;
  rest = x - q * E::pi[0];
  rest = rest - q * E::pi[1];
  rest = rest - q * E::pi[2];
  sign = (Bits<T>)shifted << (8 * static_cast<int>(sizeof(T)) - 1);
}

template <class T>
HYENA_INLINE Vec<T> sine_of_rest(Vec<T> rest, Vec<T> square, Bits<T> sign) {
  const Vec<T> value = rest + rest * square * polynomial(Elementary<T>::sine, square);
  return (Vec<T>)((Bits<T>)value ^ sign);
}

template <class T>
HYENA_INLINE Vec<T> cosine_of_rest(Vec<T> square, Bits<T> sign) {
  const Vec<T> value = T(1) + square * polynomial(Elementary<T>::cosine, square);
  return (Vec<T>)((Bits<T>)value ^ sign);
}

// All bits are one in lanes whose angle is infinite, NaN or too large for reduce().
template <class T>
HYENA_INLINE Bits<T> out_of_reach(Vec<T> x) {
  return ~(Bits<T>)((x <= Elementary<T>::largest_angle) & (x >= -Elementary<T>::largest_angle));
}

template <class T>
HYENA_INLINE bool any(Bits<T> mask) {
  std::uint64_t words[sizeof(mask) / 8], together = 0;
  std::memcpy(words, &mask, sizeof mask);
  for (const std::uint64_t word : words) together |= word;
  return together != 0;
}

template <class T>
HYENA_INLINE Vec<T> exponential(Vec<T> x) {
  using E = Elementary<T>;
  // Beyond these bounds the result is 0 or infinite. A NaN fails both comparisons and stays.
  x = x < E::lowest_power ? broadcast(E::lowest_power) : x;
  x = x > E::highest_power ? broadcast(E::highest_power) : x;
  const Vec<T> shifted = x * T(1.4426950408889634074) + E::integer;
  const Vec<T> n = shifted - E::integer;
  const Vec<T> rest = (x - n * E::ln2[0]) - n * E::ln2[1];
  const Vec<T> value = T(1) + (rest + rest * rest * polynomial(E::exponential, rest));
  // 2^n as two factors: each of them is a normal number.
  const Bits<T> power = (Bits<T>)shifted - E::integer_bits, half = power >> 1;
  const Vec<T> first = (Vec<T>)((half + E::bias) << E::mantissa);
  const Vec<T> second = (Vec<T>)((power - half + E::bias) << E::mantissa);
  return value * first * second;
}

}  // namespace
}  // namespace hyena
