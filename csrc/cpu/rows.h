// Reads rows of tensors of any dtype and stride into short buffers of the type that kernels compute in, and writes
// them.
#pragma once

#include "../common/view.h"
#include "simd.h"

namespace hyena {
namespace {

struct Row {
  char* data;
  Dtype dtype;
  std::int64_t stride;  // in elements
};

HYENA_INLINE std::int64_t bytes_of(Dtype dtype) {
  return dtype == Dtype::f64 ? 8 : dtype == Dtype::f32 ? 4 : 2;
}

// Row (a, b, :) of a tensor with three dimensions
HYENA_INLINE Row row(const View& v, std::int64_t a, std::int64_t b) {
  return {static_cast<char*>(v.data) + (a * v.stride[0] + b * v.stride[1]) * bytes_of(v.dtype), v.dtype, v.stride[2]};
}

// Row (a, :) of a tensor with two
HYENA_INLINE Row row(const View& v, std::int64_t a) {
  return {static_cast<char*>(v.data) + a * v.stride[0] * bytes_of(v.dtype), v.dtype, v.stride[1]};
}

// Element a of a tensor with one, as a row of one element
HYENA_INLINE Row element(const View& v, std::int64_t a) {
  return {static_cast<char*>(v.data) + a * v.stride[0] * bytes_of(v.dtype), v.dtype, 1};
}

HYENA_INLINE float from_bits(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

HYENA_INLINE std::uint32_t to_bits(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

struct Bf16 {
  std::uint16_t bits;
  explicit HYENA_INLINE operator float() const { return from_bits(std::uint32_t{bits} << 16); }
  static HYENA_INLINE Bf16 of(float value) {
    const std::uint32_t x = to_bits(value);
    // Rounds to nearest, ties to even. A NaN stays a NaN.
    const std::uint32_t rounded = (x + 0x7fff + ((x >> 16) & 1)) >> 16;
    return {static_cast<std::uint16_t>((x & 0x7fffffff) > 0x7f800000 ? (x >> 16) | 0x40 : rounded)};
  }
};

struct F16 {
  std::uint16_t bits;
  explicit HYENA_INLINE operator float() const {
    const std::uint32_t sign = std::uint32_t{bits} >> 15 << 31, rest = std::uint32_t{bits} & 0x7fff;
    // Reads the bits as a float32 and scales it by 2^112, which is exact for subnormal numbers too.
    const float scaled = from_bits(rest << 13) * from_bits(0x77800000);
    const std::uint32_t value = rest >= 0x7c00 ? 0x7f800000 | rest << 13 : to_bits(scaled);
    return from_bits(sign | value);
  }
  static HYENA_INLINE F16 of(float value) {
    const std::uint32_t x = to_bits(value), sign = x >> 31 << 15, rest = x & 0x7fffffff;
    // Adding 2^(e + 13) to a number below 2^(e+1) leaves the mantissa of a float16 in the last bits, rounded to even.
    // Below 2^-14 the power is 0.5, because the last bit of a subnormal number is 2^-24.
    const std::uint32_t exponent = rest & 0x7f800000;
    const std::uint32_t power = exponent < 0x38800000 ? 0x3f000000 : exponent + (13u << 23);
    const std::uint32_t rounded = to_bits(from_bits(rest) + from_bits(power)) - power;
    const std::uint32_t base = exponent < 0x38800000 ? 0 : ((exponent >> 23) - 112 - 1) << 10;
    std::uint32_t half = base + rounded;
    if (rest >= 0x47800000) half = 0x7c00;
    if (half > 0x7c00) half = 0x7c00;
    if (rest > 0x7f800000) half = 0x7e00;
    return {static_cast<std::uint16_t>(sign | half)};
  }
};

template <class T, class S>
HYENA_INLINE T widen(S value) {
  if constexpr (sizeof(S) == 2)
    return static_cast<T>(static_cast<float>(value));
  else
    return static_cast<T>(value);
}

template <class S, class T>
HYENA_INLINE S narrow(T value) {
  if constexpr (sizeof(S) == 2)
    return S::of(static_cast<float>(value));
  else
    return static_cast<S>(value);
}

enum class With { set, multiply };

template <With with, class T, class S>
void read(T* __restrict out, const S* __restrict in, std::int64_t stride, std::int64_t n) {
  if (stride == 1) {
    for (std::int64_t i = 0; i < n; ++i) out[i] = with == With::set ? widen<T>(in[i]) : out[i] * widen<T>(in[i]);
  } else {
    for (std::int64_t i = 0; i < n; ++i) {
      const T value = widen<T>(in[i * stride]);
      out[i] = with == With::set ? value : out[i] * value;
    }
  }
}

#if HYENA_F16C
// The processor converts eight numbers at a time. The portable conversion takes the rest.
template <With with>
void read(float* __restrict out, const F16* __restrict in, std::int64_t stride, std::int64_t n) {
  std::int64_t i = 0;
  if (stride == 1) {
    for (; i + 8 <= n; i += 8) {
      const __m256 value = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i)));
      _mm256_storeu_ps(out + i, with == With::set ? value : _mm256_mul_ps(value, _mm256_loadu_ps(out + i)));
    }
  }
  for (; i < n; ++i) out[i] = (with == With::set ? 1.0f : out[i]) * static_cast<float>(in[i * stride]);
}
#endif

template <class S, class T>
void write(S* __restrict out, std::int64_t stride, const T* __restrict in, std::int64_t n) {
  if (stride == 1) {
    for (std::int64_t i = 0; i < n; ++i) out[i] = narrow<S>(in[i]);
  } else {
    for (std::int64_t i = 0; i < n; ++i) out[i * stride] = narrow<S>(in[i]);
  }
}

// out[i] = (or *=) element first + i of the row, for i in 0 … n-1.
template <With with, class T>
void read(T* out, const Row& r, std::int64_t first, std::int64_t n) {
  const std::int64_t at = first * r.stride;
  switch (r.dtype) {
    case Dtype::f16: return read<with>(out, reinterpret_cast<const F16*>(r.data) + at, r.stride, n);
    case Dtype::bf16: return read<with>(out, reinterpret_cast<const Bf16*>(r.data) + at, r.stride, n);
    case Dtype::f32: return read<with>(out, reinterpret_cast<const float*>(r.data) + at, r.stride, n);
    case Dtype::f64: return read<with>(out, reinterpret_cast<const double*>(r.data) + at, r.stride, n);
  }
}

template <class T>
void write(const Row& r, std::int64_t first, const T* in, std::int64_t n) {
  const std::int64_t at = first * r.stride;
  switch (r.dtype) {
    case Dtype::f16: return write(reinterpret_cast<F16*>(r.data) + at, r.stride, in, n);
    case Dtype::bf16: return write(reinterpret_cast<Bf16*>(r.data) + at, r.stride, in, n);
    case Dtype::f32: return write(reinterpret_cast<float*>(r.data) + at, r.stride, in, n);
    case Dtype::f64: return write(reinterpret_cast<double*>(r.data) + at, r.stride, in, n);
  }
}

template <class T>
HYENA_INLINE bool plain(const Row& r) {
  return r.stride == 1 && r.dtype == (sizeof(T) == 4 ? Dtype::f32 : Dtype::f64);
}

// out[i] = element first + i of row a, times the same element of row b if b has data.
template <class T>
void read_product(T* out, const Row& a, const Row& b, std::int64_t first, std::int64_t n) {
  if (b.data == nullptr || !plain<T>(a) || !plain<T>(b)) {
    read<With::set>(out, a, first, n);
    if (b.data) read<With::multiply>(out, b, first, n);
    return;
  }
  const T *x = reinterpret_cast<const T*>(a.data) + first, *y = reinterpret_cast<const T*>(b.data) + first;
  std::int64_t i = 0;
  for (; i + Simd<T>::width <= n; i += Simd<T>::width)
    store_unaligned(out + i, load_unaligned(x + i) * load_unaligned(y + i));
  for (; i < n; ++i) out[i] = x[i] * y[i];
}

// Writes in[i] as element first + i of a row, times the same element of the row `factor` if that has data.
template <class T>
void write_product(const Row& r, const Row& factor, std::int64_t first, const T* in, std::int64_t n) {
  if (factor.data == nullptr) return write(r, first, in, n);
  if (!plain<T>(r) || !plain<T>(factor)) {
    constexpr std::int64_t at_a_time = 256;
    for (std::int64_t i = 0; i < n; i += at_a_time) {
      T product[at_a_time];
      const std::int64_t now = n - i < at_a_time ? n - i : at_a_time;
      std::memcpy(product, in + i, now * sizeof(T));
      read<With::multiply>(product, factor, first + i, now);
      write(r, first + i, product, now);
    }
    return;
  }
  T* out = reinterpret_cast<T*>(r.data) + first;
  const T* y = reinterpret_cast<const T*>(factor.data) + first;
  std::int64_t i = 0;
  for (; i + Simd<T>::width <= n; i += Simd<T>::width)
    store_unaligned(out + i, load_unaligned(in + i) * load_unaligned(y + i));
  for (; i < n; ++i) out[i] = in[i] * y[i];
}

}  // namespace
}  // namespace hyena
