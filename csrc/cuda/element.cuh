// Reads and writes elements of any dtype as float32, at strides that are known at run time.
#pragma once

#include "runtime.cuh"

namespace hyena {

#if defined(__CUDACC__)

HYENA_DEVICE float half_to_float(uint16_t bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}

HYENA_DEVICE uint16_t float_to_half(float value) {
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}

HYENA_DEVICE float float_from_word(uint32_t bits) { return __uint_as_float(bits); }

HYENA_DEVICE uint32_t word_from_float(float value) { return __float_as_uint(value); }

HYENA_DEVICE float bfloat_to_float(uint16_t bits) { return float_from_word(static_cast<uint32_t>(bits) << 16); }

HYENA_DEVICE uint16_t float_to_bfloat(float value) {
#if __CUDA_ARCH__ >= 800
  uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
#else
  // Rounds to nearest even: adds half of the last place kept if that place is odd, else a little less.
  const uint32_t bits = word_from_float(value);
  return value != value ? 0x7fff : static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
#endif
}

#endif

// A row of a tensor, with `step` elements from one to the next. Its data is null if there is no tensor.
struct Row {
  const void* data;
  int64_t step;
  Dtype dtype;
};

HYENA_DEVICE int64_t size_of(Dtype dtype) { return dtype == Dtype::f64 ? 8 : dtype == Dtype::f32 ? 4 : 2; }

// The row at indices i, j of the first two of three dimensions
HYENA_DEVICE Row row_of(const View& view, int64_t i, int64_t j) {
  const int64_t offset = (i * view.stride[0] + j * view.stride[1]) * size_of(view.dtype);
  return {view.data ? static_cast<const char*>(view.data) + offset : nullptr, view.stride[2], view.dtype};
}

// The row at index i of the first of two dimensions
HYENA_DEVICE Row row_of(const View& view, int64_t i) {
  const int64_t offset = i * view.stride[0] * size_of(view.dtype);
  return {view.data ? static_cast<const char*>(view.data) + offset : nullptr, view.stride[1], view.dtype};
}

HYENA_DEVICE float from_bits(uint16_t bits, Dtype dtype) {
  return dtype == Dtype::bf16 ? bfloat_to_float(bits) : half_to_float(bits);
}

HYENA_DEVICE uint16_t to_bits(float value, Dtype dtype) {
  return dtype == Dtype::bf16 ? float_to_bfloat(value) : float_to_half(value);
}

// Two elements of 16 bits in one word, the first in the lower half
template <Dtype dtype>
HYENA_DEVICE uint32_t pair_from_floats(float first, float second) {
#if __CUDA_ARCH__ >= 800
  uint32_t bits;
  if constexpr (dtype == Dtype::bf16)
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(second), "f"(first));
  else
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(second), "f"(first));
  return bits;
#else
  return to_bits(first, dtype) | static_cast<uint32_t>(to_bits(second, dtype)) << 16;
#endif
}

HYENA_DEVICE float load_element(const Row& row, int64_t i) {
  if (row.dtype == Dtype::f32) return static_cast<const float*>(row.data)[i * row.step];
  return from_bits(static_cast<const uint16_t*>(row.data)[i * row.step], row.dtype);
}

HYENA_DEVICE void store_element(const Row& row, int64_t i, float value) {
  if (row.dtype == Dtype::f32)
    static_cast<float*>(const_cast<void*>(row.data))[i * row.step] = value;
  else
    static_cast<uint16_t*>(const_cast<void*>(row.data))[i * row.step] = to_bits(value, row.dtype);
}

template <int count>
HYENA_DEVICE bool all_inside(int first, int distance, int length) {
  return first >= 0 && first + (count - 1) * distance < length;
}

// value[j] = data[(first + j distance) step], and zero outside 0 … length-1. If neighbours are adjacent in memory, an
// address takes one instruction. With `asks` one check covers all elements. At distances known only at run time, a
// check for each element would take as many instructions as its address.
template <int count, bool asks, class T>
HYENA_DEVICE void gather(T* value, const T* data, int64_t step, int first, int distance, int length) {
  const auto inside = [&](int j) { return static_cast<unsigned>(first + j * distance) < static_cast<unsigned>(length); };
  if (step == 1) {
    const T* from = data + first;
    if (asks && all_inside<count>(first, distance, length)) {
      HYENA_UNROLL
      for (int j = 0; j < count; ++j, from += distance) value[j] = *from;
      return;
    }
    HYENA_UNROLL
    for (int j = 0; j < count; ++j, from += asks ? distance : 0)
      value[j] = inside(j) ? from[asks ? 0 : j * distance] : T(0);
  } else {
    HYENA_UNROLL
    for (int j = 0; j < count; ++j) value[j] = inside(j) ? data[(first + j * distance) * step] : T(0);
  }
}

template <int count, bool asks, class T>
HYENA_DEVICE void scatter(const T* value, T* data, int64_t step, int first, int distance, int length) {
  const auto inside = [&](int j) { return static_cast<unsigned>(first + j * distance) < static_cast<unsigned>(length); };
  if (step == 1) {
    T* to = data + first;
    if (asks && all_inside<count>(first, distance, length)) {
      HYENA_UNROLL
      for (int j = 0; j < count; ++j, to += distance) *to = value[j];
      return;
    }
    HYENA_UNROLL
    for (int j = 0; j < count; ++j, to += asks ? distance : 0)
      if (inside(j)) to[asks ? 0 : j * distance] = value[j];
  } else {
    HYENA_UNROLL
    for (int j = 0; j < count; ++j)
      if (inside(j)) data[(first + j * distance) * step] = value[j];
  }
}

// value[j] = row[first + j distance], and zero outside 0 … length-1. The dtype is checked once, not for each element.
template <int count, bool asks>
HYENA_DEVICE void load_strided(float* value, const Row& row, int first, int distance, int length) {
  if (row.dtype == Dtype::f32)
    return gather<count, asks>(value, static_cast<const float*>(row.data), row.step, first, distance, length);
  uint16_t bits[count];
  gather<count, asks>(bits, static_cast<const uint16_t*>(row.data), row.step, first, distance, length);
  if (row.dtype == Dtype::bf16) {
    HYENA_UNROLL
    for (int j = 0; j < count; ++j) value[j] = bfloat_to_float(bits[j]);
  } else {
    HYENA_UNROLL
    for (int j = 0; j < count; ++j) value[j] = half_to_float(bits[j]);
  }
}

template <int count, bool asks>
HYENA_DEVICE void store_strided(const float* value, const Row& row, int first, int distance, int length) {
  void* target = const_cast<void*>(row.data);
  if (row.dtype == Dtype::f32)
    return scatter<count, asks>(value, static_cast<float*>(target), row.step, first, distance, length);
  uint16_t bits[count];
  if (row.dtype == Dtype::bf16) {
    HYENA_UNROLL
    for (int j = 0; j < count; ++j) bits[j] = float_to_bfloat(value[j]);
  } else {
    HYENA_UNROLL
    for (int j = 0; j < count; ++j) bits[j] = float_to_half(value[j]);
  }
  scatter<count, asks>(bits, static_cast<uint16_t*>(target), row.step, first, distance, length);
}

}  // namespace hyena
