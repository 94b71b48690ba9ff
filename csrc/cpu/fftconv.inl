// Gated long convolutions of rows, forward and backward: one row at a time, with work arrays that stay in the cache.
//
// A channel's filter is transformed once for the whole batch. The first pass reads a row of the signal and gates it.
// Each part of the row is then transformed, multiplied with the filter's spectrum and transformed back before the next
// part starts (transform.inl). The last pass gates the row and writes it. Backward transforms signal, gradient and
// filter again. It sums the filter's gradient over the batch as a spectrum, in the order of the batch.
//
// Filters that are much shorter than the row take other ways: short_filters.inl.
#include "fftconv.h"
#include "row_work.inl"
#include "short_filters.inl"

namespace hyena {
namespace {

// For the signal x and the gradient g of one row: x becomes x ⋆ k, and g becomes its correlation with k. g · conj(x) is
// added to the spectrum of the filter's gradient.
template <class T>
struct GradientVisit {
  Arrays<T, 2> forward, backward;
  T *signal, *gradient;     // null if not needed
  const T* filter;
  T* filter_gradient;       // null if not needed
  bool accumulate;          // filter_gradient holds the sum over the rows before
  bool convolve, correlate;

  HYENA_INLINE void leaf(const Leaf<T>& leaf, std::int64_t at) const {
    constexpr int W = width<T>;
    Complex<T> x[W];
    if (signal) {
      leaf.forward(signal + at, x);
    } else {
      for (int j = 0; j < W; ++j) x[j] = Complex<T>{};
    }
    if (gradient) {
      Complex<T> g[W];
      leaf.forward(gradient + at, g);
      if (filter_gradient) {
        T* sum = filter_gradient + at;
#pragma GCC unroll 16
        for (int j = 0; j < W; ++j) {
          Complex<T> product = times<true>(g[j], x[j].re, x[j].im);
          if (accumulate) product = load_complex(sum + 2 * j * W) + product;
          store_complex(sum + 2 * j * W, product);
        }
      }
      if (correlate) {
        multiply<true>(g, filter + at);
        leaf.inverse(g, gradient + at);
      }
    }
    if (convolve) {
      multiply<false>(x, filter + at);
      leaf.inverse(x, signal + at);
    }
  }
};

template <class T>
void forward_whole(const FftconvForward& args, std::int64_t first, std::int64_t last) {
  const std::int64_t length = args.u.size[2];
  const Work<T> work(length, 2);
  T *signal = work.array(0), *filter = work.array(1);
  for (std::int64_t d = first; d < last; ++d) {
    transform_filter(work, args.k, args.skip, d, args.tap, filter);
    for (std::int64_t b = 0; b < args.u.size[0]; ++b) {
      Input in{row(args.u, b, d), row_of(args.pre_gate, b, d)};
      in.length = length;
      first_pass(*work.plan, in, signal);
      ConvolveVisit<T> visit(signal, filter);
      work.run(visit);
      Output out;
      out.add(row(args.y, b, d), row_of(args.post_gate, b, d));
      out.length = length;
      out.shift = args.tap;
      last_pass(*work.plan, signal, out);
    }
  }
}

template <class T>
void backward_whole(const FftconvBackward& args, std::int64_t first, std::int64_t last) {
  const std::int64_t length = args.u.size[2], batch = args.u.size[0];
  const bool for_filter = static_cast<bool>(args.dk), for_gate = static_cast<bool>(args.dpost_gate);
  const bool for_signal = args.du || args.dpre_gate;
  const Work<T> work(length, 4);
  T *signal = work.array(0), *gradient = work.array(1), *filter = work.array(2), *filter_gradient = work.array(3);
  GradientVisit<T> visit{};
  visit.filter = filter;
  visit.convolve = for_gate;
  visit.correlate = for_signal;
  if (for_filter) visit.filter_gradient = filter_gradient;
  if (for_filter || for_gate) visit.forward.add(visit.signal = signal);
  if (for_filter || for_signal) visit.forward.add(visit.gradient = gradient);
  if (for_signal) visit.backward.add(gradient);
  if (for_gate) visit.backward.add(signal);
  for (std::int64_t d = first; d < last; ++d) {
    if (for_signal || for_gate) transform_filter(work, args.k, args.skip, d, args.tap, filter);
    double skip = 0.0;
    for (std::int64_t b = 0; b < batch; ++b) {
      if (args.dskip)
        skip += skip_gradient<T>(row(args.u, b, d), row_of(args.pre_gate, b, d), row(args.dy, b, d),
                                 row_of(args.post_gate, b, d), length);
      if (visit.signal) {
        Input in{row(args.u, b, d), row_of(args.pre_gate, b, d)};
        in.length = length;
        first_pass(*work.plan, in, signal);
      }
      if (visit.gradient) {
        Input in{row(args.dy, b, d), row_of(args.post_gate, b, d)};
        in.length = length;
        in.shift = args.tap;
        first_pass(*work.plan, in, gradient);
      }
      if (!visit.signal && !visit.gradient) continue;
      visit.accumulate = b > 0;
      work.run(visit);
      if (for_signal) {
        Output out;
        if (args.du) out.add(row(args.du, b, d), row_of(args.pre_gate, b, d));
        if (args.dpre_gate) out.add(row(args.dpre_gate, b, d), row(args.u, b, d));
        out.length = length;
        last_pass(*work.plan, gradient, out);
      }
      if (for_gate) {
        Output out;
        out.add(row(args.dpost_gate, b, d), row(args.dy, b, d));
        out.length = length;
        out.shift = args.tap;
        last_pass(*work.plan, signal, out);
      }
    }
    if (args.dskip) write(element(args.dskip, d), 0, &skip, 1);
    if (!for_filter) continue;
    InverseVisit<T> inverse(filter_gradient);
    if (batch == 0) std::memset(filter_gradient, 0, work.stride * sizeof(T));
    work.run(inverse);
    Output out;
    out.add(row(args.dk, d), Row{});
    out.length = args.k.size[1];
    out.scale = 1.0 / static_cast<double>(work.plan->points);
    last_pass(*work.plan, filter_gradient, out);
  }
}

template <class T>
void forward(const FftconvForward& args, std::int64_t first, std::int64_t last) {
  switch (way_forward(args.u.size[2], args.k.size[1])) {
    case Way::direct: return forward_directly<T>(args, first, last);
    case Way::blocks: return forward_by_blocks<T>(args, first, last);
    default: return forward_whole<T>(args, first, last);
  }
}

template <class T>
void backward(const FftconvBackward& args, std::int64_t first, std::int64_t last) {
  if (way_of(args.u.size[2], args.k.size[1]) == Way::blocks) return backward_by_blocks<T>(args, first, last);
  backward_whole<T>(args, first, last);
}

void forward_any(const FftconvForward& args, std::int64_t first, std::int64_t last) {
  args.wide ? forward<double>(args, first, last) : forward<float>(args, first, last);
}

void backward_any(const FftconvBackward& args, std::int64_t first, std::int64_t last) {
  args.wide ? backward<double>(args, first, last) : backward<float>(args, first, last);
}

}  // namespace

const FftconvKernels HYENA_KERNELS(fftconv) = {forward_any, backward_any};

}  // namespace hyena
