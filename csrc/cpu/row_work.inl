// What all convolutions of rows share: the work arrays of a transform, spectra of filters, and the gradient of the skip.
#pragma once

#include "edges.inl"
#include "scratch.h"

namespace hyena {
namespace {

// Pointers to the work arrays of a pass
template <class T, int most>
struct Arrays {
  T* data[most];
  int count = 0;

  void add(T* array) { data[count++] = array; }
  T* const* begin() const { return data; }
  T* const* end() const { return data + count; }
};

template <class T>
struct Work {
  const Plan<T>* plan;
  T* memory;
  std::int64_t stride;
  int arrays;

  // `more` numbers follow the arrays.
  Work(std::int64_t length, int arrays, std::int64_t more = 0)
      : plan(acquire_plan<T>(length, width<T>)), arrays(arrays) {
    // Three more cache lines: otherwise the same places of two arrays would compete for one place of the cache.
    stride = 2 * plan->groups * width<T> * width<T> + 64 / static_cast<std::int64_t>(sizeof(T)) * 3;
    memory = static_cast<T*>(scratch(For::rows, (arrays * stride + more) * sizeof(T)));
  }
  Work(const Work&) = delete;
  Work& operator=(const Work&) = delete;
  ~Work() {
    release_plan(plan);
    trim_scratch(For::rows);
  }

  T* array(int index) const { return memory + index * stride; }
  T* behind() const { return memory + arrays * stride; }

  template <class Visit>
  void run(Visit& visit) const {
    descend(*plan, 0, 0, plan->top, 0, visit);
  }
};

// Computes the filter's spectrum, divided by P. The inverse transforms then need no factor.
template <class T>
struct FilterVisit {
  Arrays<T, 1> forward, backward;
  T scale;

  FilterVisit(T* filter, T scale) : scale(scale) { forward.add(filter); }

  HYENA_INLINE void leaf(const Leaf<T>& leaf, std::int64_t at) const {
    constexpr int W = width<T>;
    Complex<T> x[W];
    leaf.forward(forward.data[0] + at, x);
#pragma GCC unroll 16
    for (int j = 0; j < W; ++j)
      store_complex(forward.data[0] + at + 2 * j * W, Complex<T>{x[j].re * scale, x[j].im * scale});
  }
};

template <bool conjugate, class T>
HYENA_INLINE void multiply(Complex<T> (&x)[width<T>], const T* spectrum) {
#pragma GCC unroll 16
  for (int j = 0; j < width<T>; ++j) {
    const Complex<T> k = load_complex(spectrum + 2 * j * width<T>);
    x[j] = times<conjugate>(x[j], k.re, k.im);
  }
}

template <class T>
struct ConvolveVisit {
  Arrays<T, 1> forward, backward;
  const T* filter;

  ConvolveVisit(T* signal, const T* filter) : filter(filter) {
    forward.add(signal);
    backward.add(signal);
  }

  HYENA_INLINE void leaf(const Leaf<T>& leaf, std::int64_t at) const {
    constexpr int W = width<T>;
    Complex<T> x[W];
    leaf.forward(forward.data[0] + at, x);
    multiply<false>(x, filter + at);
    leaf.inverse(x, forward.data[0] + at);
  }
};

template <class T>
struct InverseVisit {
  Arrays<T, 1> forward, backward;

  explicit InverseVisit(T* spectrum) { backward.add(spectrum); }

  HYENA_INLINE void leaf(const Leaf<T>& leaf, std::int64_t at) const {
    constexpr int W = width<T>;
    Complex<T> x[W];
#pragma GCC unroll 16
    for (int j = 0; j < W; ++j) x[j] = load_complex(backward.data[0] + at + 2 * j * W);
    leaf.inverse(x, backward.data[0] + at);
  }
};

HYENA_INLINE Row row_of(const View& v, std::int64_t b, std::int64_t d) { return v ? row(v, b, d) : Row{}; }

template <class T>
void transform_filter(const Work<T>& work, const View& k, const View& skip, std::int64_t d, std::int64_t tap, T* out) {
  const Row skip_row = skip ? element(skip, d) : Row{};
  Input in{row(k, d)};
  in.length = k.size[1];
  in.skip = skip ? &skip_row : nullptr;
  in.tap = tap;
  first_pass(*work.plan, in, out);
  FilterVisit<T> visit(out, T(1) / static_cast<T>(work.plan->points));
  work.run(visit);
}

// The gradient of the skip: the sum of x * gradient over one row. It is computed from the inputs. The filter's gradient
// would be less accurate, because each of its taps has the rounding errors of the whole transform.
template <class T>
double skip_gradient(const Row& u, const Row& pre, const Row& dy, const Row& post, std::int64_t length) {
  constexpr std::int64_t at_a_time = tile_points;
  double sum = 0.0;
  for (std::int64_t t = 0; t < length; t += at_a_time) {
    alignas(64) T product[at_a_time];
    const std::int64_t n = length - t < at_a_time ? length - t : at_a_time;
    std::memset(product + n, 0, (at_a_time - n) * sizeof(T));
    read_product(product, u, pre, t, n);
    read<With::multiply>(product, dy, t, n);
    if (post.data) read<With::multiply>(product, post, t, n);
    Vec<T> lanes{};
    for (std::int64_t i = 0; i < at_a_time; i += width<T>) lanes += load(product + i);
    for (int lane = 0; lane < width<T>; ++lane) sum += lanes[lane];
  }
  return sum;
}

}  // namespace
}  // namespace hyena
