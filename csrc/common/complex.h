// Complex numbers, without the special cases of std::complex for infinities
#pragma once

#include "host_device.h"

namespace hyena {

template <class T>
struct alignas(2 * sizeof(T)) Complex {
  T re, im;
};

template <class T>
HYENA_HOST_DEVICE Complex<T> operator+(Complex<T> a, Complex<T> b) {
  return {a.re + b.re, a.im + b.im};
}

template <class T>
HYENA_HOST_DEVICE Complex<T> operator-(Complex<T> a, Complex<T> b) {
  return {a.re - b.re, a.im - b.im};
}

template <class T>
HYENA_HOST_DEVICE Complex<T> operator*(Complex<T> a, Complex<T> b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}

template <class T>
HYENA_HOST_DEVICE Complex<T> operator*(T a, Complex<T> b) {
  return {a * b.re, a * b.im};
}

template <class T>
HYENA_HOST_DEVICE Complex<T> conj(Complex<T> a) {
  return {a.re, -a.im};
}

// conj(a) * b
template <class T>
HYENA_HOST_DEVICE Complex<T> conj_times(Complex<T> a, Complex<T> b) {
  return {a.re * b.re + a.im * b.im, a.re * b.im - a.im * b.re};
}

// b * exp(-iπ/2), or b * exp(iπ/2) for the inverse
template <bool inverse, class T>
HYENA_HOST_DEVICE Complex<T> quarter_turn(Complex<T> b) {
  return inverse ? Complex<T>{-b.im, b.re} : Complex<T>{b.im, -b.re};
}

}  // namespace hyena
