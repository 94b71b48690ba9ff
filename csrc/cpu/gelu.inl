// GELU and its derivative, a stretch of elements at a time.
#include "elementary.h"
#include "gelu.h"
#include "rows.h"

namespace hyena {
namespace {

constexpr std::int64_t gelu_stretch = 512;

// 2 u = x (gelu_linear + gelu_cubic x²)
template <class T>
constexpr T gelu_linear = T(1.5957691216057308);
template <class T>
constexpr T gelu_cubic = T(0.044715 * 1.5957691216057308);

// exp(-2 u), perhaps infinite
template <class T>
HYENA_INLINE Vec<T> gelu_power(Vec<T> x, Vec<T> square) {
  return exponential<T>(-x * (gelu_linear<T> + gelu_cubic<T> * square));
}

template <class T>
void gelu_forward(const GeluForward& args, std::int64_t first, std::int64_t last) {
  const Row in = element(args.x, 0), out = element(args.y, 0);
  alignas(64) T values[gelu_stretch] = {};
  for (std::int64_t at = first; at < last; at += gelu_stretch) {
    const std::int64_t n = last - at < gelu_stretch ? last - at : gelu_stretch;
    read<With::set>(values, in, at, n);
    // The last vector may reach behind the n elements, into numbers that are not written.
    for (std::int64_t i = 0; i < n; i += Simd<T>::width) {
      const Vec<T> x = load(values + i);
      store(values + i, x / (T(1) + gelu_power<T>(x, x * x)));
    }
    write(out, at, values, n);
  }
}

template <class T>
void gelu_backward(const GeluBackward& args, std::int64_t first, std::int64_t last) {
  const Row in = element(args.x, 0), grad = element(args.dy, 0), out = element(args.dx, 0);
  alignas(64) T values[gelu_stretch] = {}, grads[gelu_stretch] = {};
  for (std::int64_t at = first; at < last; at += gelu_stretch) {
    const std::int64_t n = last - at < gelu_stretch ? last - at : gelu_stretch;
    read<With::set>(values, in, at, n);
    read<With::set>(grads, grad, at, n);
    for (std::int64_t i = 0; i < n; i += Simd<T>::width) {
      const Vec<T> x = load(values + i), square = x * x, power = gelu_power<T>(x, square);
      const Vec<T> gate = T(1) / (T(1) + power);
      // 1 - gate, exact also where gate is nearly 1
      const Vec<T> rest = power < T(1) ? power * gate : T(1) - gate;
      // The derivative of 2 u, times x
      const Vec<T> slope = x * (gelu_linear<T> + (3 * gelu_cubic<T>)*square);
      store(grads + i, load(grads + i) * (gate + gate * rest * slope));
    }
    write(out, at, grads, n);
  }
}

template <class Args, void (*wide)(const Args&, std::int64_t, std::int64_t),
          void (*narrow)(const Args&, std::int64_t, std::int64_t)>
void by_dtype(const Args& args, std::int64_t first, std::int64_t last) {
  args.x.dtype == Dtype::f64 ? wide(args, first, last) : narrow(args, first, last);
}

}  // namespace

const GeluKernels HYENA_KERNELS(gelu) = {
    by_dtype<GeluForward, gelu_forward<double>, gelu_forward<float>>,
    by_dtype<GeluBackward, gelu_backward<double>, gelu_backward<float>>,
};

}  // namespace hyena
