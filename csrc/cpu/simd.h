// Vectors of HYENA_VECTOR_BYTES, by the vector extension of GCC and Clang. The including file sets the instruction set.
#pragma once

#include <cstdint>
#include <cstring>

#define HYENA_INLINE inline __attribute__((always_inline))

namespace hyena {
namespace {

template <class T>
struct Simd;

template <>
struct Simd<float> {
  typedef float V __attribute__((vector_size(HYENA_VECTOR_BYTES)));
  typedef std::int32_t Index __attribute__((vector_size(HYENA_VECTOR_BYTES)));
  static constexpr int width = HYENA_VECTOR_BYTES / 4;
};

template <>
struct Simd<double> {
  typedef double V __attribute__((vector_size(HYENA_VECTOR_BYTES)));
  typedef std::int64_t Index __attribute__((vector_size(HYENA_VECTOR_BYTES)));
  static constexpr int width = HYENA_VECTOR_BYTES / 8;
};

template <class T>
using Vec = typename Simd<T>::V;

template <class T>
HYENA_INLINE Vec<T> load(const T* p) {
  return *reinterpret_cast<const Vec<T>*>(p);
}

template <class T>
HYENA_INLINE void store(T* p, Vec<T> v) {
  *reinterpret_cast<Vec<T>*>(p) = v;
}

template <class T>
HYENA_INLINE Vec<T> load_unaligned(const T* p) {
  Vec<T> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

template <class T>
HYENA_INLINE void store_unaligned(T* p, Vec<T> v) {
  std::memcpy(p, &v, sizeof v);
}

// Sum of the lanes of a vector: adds its upper half to its lower half, and so on.
template <class T, int count>
HYENA_INLINE T sum_of_lanes(const T* lanes) {
  if constexpr (count == 2) {
    return lanes[0] + lanes[1];
  } else {
    typedef T Half __attribute__((vector_size(count / 2 * sizeof(T))));
    Half low, high;
    std::memcpy(&low, lanes, sizeof low);
    std::memcpy(&high, lanes + count / 2, sizeof high);
    low += high;
    T sums[count / 2];
    std::memcpy(sums, &low, sizeof low);
    return sum_of_lanes<T, count / 2>(sums);
  }
}

template <class T>
HYENA_INLINE T sum_of(Vec<T> v) {
  T lanes[Simd<T>::width];
  store_unaligned(lanes, v);
  return sum_of_lanes<T, Simd<T>::width>(lanes);
}

// The same elements in the opposite order
template <class T>
HYENA_INLINE Vec<T> reversed(Vec<T> v) {
  constexpr int width = Simd<T>::width;
  typename Simd<T>::Index order;
#pragma GCC unroll 16
  for (int i = 0; i < width; ++i) order[i] = width - 1 - i;
#if defined(__clang__)
  // Clang's shuffle takes only constant indices, and these depend on the width.
  Vec<T> result;
  for (int i = 0; i < width; ++i) result[i] = v[order[i]];
  return result;
#else
  return __builtin_shuffle(v, order);
#endif
}

// Transposes width × width elements. Blocks of 1, 2, 4, … elements change places with their mirror images.
template <class T, int step = Simd<T>::width / 2>
HYENA_INLINE void transpose(Vec<T> (&rows)[Simd<T>::width]) {
  constexpr int width = Simd<T>::width;
  using Index = typename Simd<T>::Index;
  if constexpr (step > 0) {
    Index low, high;
#pragma GCC unroll 16
    for (int i = 0; i < width; ++i) {
      low[i] = i & step ? width + i - step : i;
      high[i] = i & step ? width + i : i + step;
    }
#pragma GCC unroll 16
    for (int i = 0; i < width; ++i) {
      if (i & step) continue;
      const Vec<T> a = rows[i], b = rows[i + step];
#if defined(__clang__)
      // Clang's shuffle takes only constant indices, and these depend on the width.
      Vec<T> first, second;
      for (int lane = 0; lane < width; ++lane) {
        first[lane] = lane & step ? b[lane - step] : a[lane];
        second[lane] = lane & step ? b[lane] : a[lane + step];
      }
      rows[i] = first;
      rows[i + step] = second;
#else
      rows[i] = __builtin_shuffle(a, b, low);
      rows[i + step] = __builtin_shuffle(a, b, high);
#endif
    }
    transpose<T, step / 2>(rows);
  }
}

}  // namespace
}  // namespace hyena
