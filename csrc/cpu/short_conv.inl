// Short convolutions of rows and of channel-last tensors.
//
// There are two layouts. Rows holds positions of one channel, and lanes of vectors are positions. Lanes holds a vector
// of channels for each position, so a tap needs no shift within vectors, and all loads are aligned. It is for
// channel-last tensors, and for many taps: there the loads of Rows that cross cache lines take longer than a
// transposition on the way in and out. Each element is summed in the same order in both.
#pragma once

#include "channel_tiles.inl"
#include "elementary.h"

namespace hyena {
namespace {

// Vectors of results that are summed at a time: enough independent sums to hide the latency of a multiply-add
constexpr int together = 8;

HYENA_INLINE std::int64_t rounded_up(std::int64_t n, std::int64_t unit) { return (n + unit - 1) / unit * unit; }

// The parts of n positions from `first` on that lie in the state, `before … begin`, and in the sequence, `begin … end`
struct Parts {
  std::int64_t past, before, begin, end;
};

HYENA_INLINE Parts parts_of(const View& v, const View& state, std::int64_t first, std::int64_t n) {
  const std::int64_t past = state ? state.size[2] : 0;
  const auto index = [=](std::int64_t position) { return least(n, most(0, position - first)); };
  return {past, index(-past), index(0), index(v.size[2])};
}

template <class T>
struct Rows {
  // Channels at a time, numbers of a position, positions at a time, and the multiple to which positions are rounded up
  static constexpr std::int64_t channels = 1, unit = 1, step = 512, whole = width<T>;

  // Positions first … first + n - 1 of a channel. Before the start of the sequence are the samples of `state`, if there
  // is one, and everything else is zero.
  static void read_samples(T* out, const View& v, const View& state, std::int64_t b, std::int64_t d, std::int64_t,
                           std::int64_t first, std::int64_t n) {
    const Parts at = parts_of(v, state, first, n);
    std::memset(out, 0, at.before * sizeof(T));
    if (at.begin > at.before)
      read<With::set>(out + at.before, row(state, b, d), first + at.before + at.past, at.begin - at.before);
    if (at.end > at.begin) read<With::set>(out + at.begin, row(v, b, d), first + at.begin, at.end - at.begin);
    std::memset(out + at.end, 0, (n - at.end) * sizeof(T));
  }

  static void write_samples(const View& v, std::int64_t b, std::int64_t d, std::int64_t, std::int64_t first, const T* in,
                            std::int64_t n) {
    write(row(v, b, d), first, in, n);
  }

  // out[i] = bias + sum over lags of w[K - 1 - lag] in[i + direction lag]
  template <int direction>
  static void convolve(T* out, const T* in, std::int64_t n, const T* w, std::int64_t K, const T* bias) {
    constexpr int W = width<T>;
    std::int64_t i = 0;
    for (; i + together * W <= n; i += together * W) {
      Vec<T> sums[together];
#pragma GCC unroll 8
      for (int j = 0; j < together; ++j) sums[j] = load_unaligned(in + i + j * W) * w[K - 1];
      for (std::int64_t lag = 1; lag < K; ++lag) {
        const T* from = in + i + direction * lag;
        const T tap = w[K - 1 - lag];
#pragma GCC unroll 8
        for (int j = 0; j < together; ++j) sums[j] += load_unaligned(from + j * W) * tap;
      }
#pragma GCC unroll 8
      for (int j = 0; j < together; ++j) store(out + i + j * W, sums[j] + *bias);
    }
    for (; i < n; i += W) {
      Vec<T> sum = load_unaligned(in + i) * w[K - 1];
      for (std::int64_t lag = 1; lag < K; ++lag) sum += load_unaligned(in + i + direction * lag) * w[K - 1 - lag];
      store(out + i, sum + *bias);
    }
  }
  // Adds to sums[K - 1 - lag] the sum of g[i] x[i - lag], and the sum of g to sums[K].
  static void add_products(double* sums, const T* g, const T* x, std::int64_t n, std::int64_t K) {
    constexpr int W = width<T>;
    const auto add = [](double& sum, const Vec<T>& total) {
      for (int lane = 0; lane < W; ++lane) sum += total[lane];
    };
    std::int64_t lag = 0;
    for (; lag + together <= K; lag += together) {
      Vec<T> totals[together] = {};
      for (std::int64_t i = 0; i < n; i += W) {
        const Vec<T> grad = load_unaligned(g + i);
#pragma GCC unroll 8
        for (int j = 0; j < together; ++j) totals[j] += grad * load_unaligned(x + i - lag - j);
      }
#pragma GCC unroll 8
      for (int j = 0; j < together; ++j) add(sums[K - 1 - lag - j], totals[j]);
    }
    for (; lag <= K; ++lag) {
      Vec<T> total{};
      for (std::int64_t i = 0; i < n; i += W) {
        const Vec<T> grad = load_unaligned(g + i);
        total += lag < K ? grad * load_unaligned(x + i - lag) : grad;
      }
      add(sums[lag < K ? K - 1 - lag : K], total);
    }
  }
};

// A channel-last view (B, D, L) as lanes_at() takes it: (B, L, D)
View swapped(View v) {
  const std::int64_t size = v.size[1], stride_of_channel = v.stride[1];
  v.size[1] = v.size[2];
  v.stride[1] = v.stride[2];
  v.size[2] = size;
  v.stride[2] = stride_of_channel;
  return v;
}

template <class T>
struct Lanes {
  static constexpr int W = width<T>;
  static constexpr std::int64_t channels = W, unit = W, step = 256, whole = together;

  // Rows of cache lines are far apart in memory, and the processor does not foresee them.
  static constexpr std::int64_t ahead = 32;

  // As Rows<T>::read_samples() for some channels: vector i has position first + i.
  static void read_samples(T* out, const View& v, const View& state, std::int64_t b, std::int64_t d, std::int64_t rows,
                           std::int64_t first, std::int64_t n) {
    const Parts at = parts_of(v, state, first, n);
    std::memset(out, 0, at.begin * W * sizeof(T));
    for (std::int64_t i = at.before; i < at.begin; ++i)
      for (std::int64_t r = 0; r < rows; ++r)
        read<With::set>(out + i * W + r, row(state, b, d + r), first + i + at.past, 1);
    std::memset(out + at.end * W, 0, (n - at.end) * W * sizeof(T));
    if (channel_last(v)) {
      const View last = swapped(v);
      const bool fast = plain<T>(last) && rows == W;
      for (std::int64_t i = at.begin; i < at.end; ++i) {
        const Row from = lanes_at(last, b, first + i, d);
        __builtin_prefetch(from.data + ahead * last.stride[1] * bytes_of(v.dtype));
        if (fast) {
          store(out + i * W, load_unaligned(reinterpret_cast<const T*>(from.data)));
        } else {
          store(out + i * W, Vec<T>{});
          read<With::set>(out + i * W, from, 0, rows);
        }
      }
      return;
    }
    for (std::int64_t i = at.begin; i < at.end; i += W) {
      Vec<T> block[W] = {};
      const std::int64_t now = least(W, at.end - i);
      for (std::int64_t r = 0; r < rows; ++r) {
        alignas(64) T values[W] = {};
        read<With::set>(values, row(v, b, d + r), first + i, now);
        block[r] = load(values);
      }
      transpose<T>(block);
      for (std::int64_t j = 0; j < now; ++j) store(out + (i + j) * W, block[j]);
    }
  }

  static void write_samples(const View& v, std::int64_t b, std::int64_t d, std::int64_t rows, std::int64_t first,
                            const T* in, std::int64_t n) {
    if (channel_last(v)) {
      const View last = swapped(v);
      const bool fast = plain<T>(last) && rows == W;
      for (std::int64_t i = 0; i < n; ++i) {
        const Row to = lanes_at(last, b, first + i, d);
        __builtin_prefetch(to.data + ahead * last.stride[1] * bytes_of(v.dtype), 1);
        if (fast)
          store_unaligned(reinterpret_cast<T*>(to.data), load(in + i * W));
        else
          write(to, 0, in + i * W, rows);
      }
      return;
    }
    for (std::int64_t i = 0; i < n; i += W) {
      Vec<T> block[W] = {};
      const std::int64_t now = least(W, n - i);
      for (std::int64_t j = 0; j < now; ++j) block[j] = load(in + (i + j) * W);
      transpose<T>(block);
      for (std::int64_t r = 0; r < rows; ++r) {
        alignas(64) T values[W];
        store(values, block[r]);
        write(row(v, b, d + r), first + i, values, now);
      }
    }
  }

  template <int direction>
  static void convolve(T* out, const T* in, std::int64_t n, const T* w, std::int64_t K, const T* bias) {
    const Vec<T> offset = load(bias);
    for (std::int64_t i = 0; i < n; i += together) {
      Vec<T> sums[together], tap = load(w + (K - 1) * W);
#pragma GCC unroll 8
      for (int j = 0; j < together; ++j) sums[j] = load(in + (i + j) * W) * tap;
      for (std::int64_t lag = 1; lag < K; ++lag) {
        const T* from = in + (i + direction * lag) * W;
        tap = load(w + (K - 1 - lag) * W);
#pragma GCC unroll 8
        for (int j = 0; j < together; ++j) sums[j] += load(from + j * W) * tap;
      }
#pragma GCC unroll 8
      for (int j = 0; j < together; ++j) store(out + (i + j) * W, sums[j] + offset);
    }
  }

  // Lanes are sums of their own. They are short, so that they stay exact.
  static void add_products(double* sums, const T* g, const T* x, std::int64_t n, std::int64_t K) {
    constexpr std::int64_t few = 64;
    const auto add = [](double* sum, const Vec<T>& total) {
      for (int lane = 0; lane < W; ++lane) sum[lane] += total[lane];
    };
    for (std::int64_t begin = 0; begin < n; begin += few) {
      const std::int64_t end = least(n, begin + few);
      std::int64_t lag = 0;
      for (; lag + together <= K; lag += together) {
        Vec<T> totals[together] = {};
        for (std::int64_t i = begin; i < end; ++i) {
          const Vec<T> grad = load(g + i * W);
#pragma GCC unroll 8
          for (int j = 0; j < together; ++j) totals[j] += grad * load(x + (i - lag - j) * W);
        }
#pragma GCC unroll 8
        for (int j = 0; j < together; ++j) add(sums + (K - 1 - lag - j) * W, totals[j]);
      }
      for (; lag <= K; ++lag) {
        Vec<T> total{};
        for (std::int64_t i = begin; i < end; ++i) {
          const Vec<T> grad = load(g + i * W);
          total += lag < K ? grad * load(x + (i - lag) * W) : grad;
        }
        add(sums + (lag < K ? K - 1 - lag : K) * W, total);
      }
    }
  }
};

template <class T>
void silu(T* v, std::int64_t n) {
  for (std::int64_t i = 0; i < n; i += width<T>) {
    const Vec<T> x = load(v + i);
    store(v + i, x / (T(1) + exponential<T>(-x)));
  }
}

// g[i] times the derivative of SiLU at v[i]
template <class T>
void times_slope(T* g, const T* v, std::int64_t n) {
  for (std::int64_t i = 0; i < n; i += width<T>) {
    const Vec<T> x = load(v + i), power = exponential<T>(-x), gate = T(1) / (T(1) + power);
    // 1 - gate, exact also where gate is nearly 1
    const Vec<T> rest = power < T(1) ? power * gate : T(1) - gate;
    store(g + i, load(g + i) * (gate + gate * rest * x));
  }
}

// Taps and biases of some channels, in a layout
template <class T, class Layout>
struct ShortTaps {
  alignas(64) T w[most_short_taps * Layout::unit], bias[Layout::unit];

  void take(const View& weight, const View& biases, std::int64_t d, std::int64_t rows) {
    const std::int64_t K = weight.size[1];
    std::memset(bias, 0, sizeof bias);
    if (rows < Layout::unit) std::memset(w, 0, K * Layout::unit * sizeof(T));
    for (std::int64_t r = 0; r < rows; ++r) {
      T taps[most_short_taps];
      read<With::set>(taps, row(weight, d + r), 0, K);
      for (std::int64_t k = 0; k < K; ++k) w[k * Layout::unit + r] = taps[k];
      if (biases) read<With::set>(bias + r, element(biases, d + r), 0, 1);
    }
  }
};

template <class T, class Layout>
void short_conv_forward_in(const ShortConvForward& args, std::int64_t first, std::int64_t last) {
  constexpr std::int64_t step = Layout::step, unit = Layout::unit, whole = Layout::whole;
  const std::int64_t K = args.weight.size[1], length = args.x.size[2], past = rounded_up(K - 1, whole);
  ShortTaps<T, Layout> taps;
  for (std::int64_t d = first; d < last; d += Layout::channels) {
    const std::int64_t rows = least(Layout::channels, last - d);
    taps.take(args.weight, args.bias, d, rows);
    for (std::int64_t b = 0; b < args.x.size[0]; ++b) {
      for (std::int64_t t = 0; t < length; t += step) {
        alignas(64) T in[(most_short_taps + step) * unit], out[step * unit];
        const std::int64_t n = least(step, length - t), all = rounded_up(n, whole);
        Layout::read_samples(in, args.x, args.state, b, d, rows, t - past, past + all);
        Layout::template convolve<-1>(out, in + past * unit, all, taps.w, K, taps.bias);
        if (args.silu) silu(out, all * unit);
        Layout::write_samples(args.y, b, d, rows, t, out, n);
      }
    }
  }
}

// The gradients of some channels and what they are made from. `g` and `x` begin at the same position, but for `past`
// samples before it that `x` has too.
template <class T, class Layout>
struct ShortGradients {
  static constexpr std::int64_t unit = Layout::unit, whole = Layout::whole;
  // Of a stretch, or of the state
  static constexpr std::int64_t longest = Layout::step > most_short_taps ? Layout::step : most_short_taps;

  const ShortConvBackward& args;
  const std::int64_t K, past;
  std::int64_t d, rows;
  ShortTaps<T, Layout> taps;
  alignas(64) T g[(longest + most_short_taps) * unit], out[(longest + most_short_taps) * unit];
  alignas(64) T x[(longest + 2 * most_short_taps) * unit];

  // It leaves the arrays as they are: to clear them would take longer than a short row.
  explicit ShortGradients(const ShortConvBackward& gradients)
      : args(gradients), K(args.weight.size[1]), past(rounded_up(K - 1, whole)) {}

  void take(std::int64_t channel, std::int64_t channels) {
    d = channel;
    rows = channels;
    taps.take(args.weight, args.bias, d, rows);
  }

  // Reads n positions. Gradients of positions outside of the sequence are zero.
  void read_stretch(std::int64_t b, std::int64_t first, std::int64_t n, bool for_taps) {
    Layout::read_samples(g, args.dy, View(), b, d, rows, first, n);
    if (!args.silu && !for_taps) return;
    Layout::read_samples(x, args.x, args.state, b, d, rows, first - past, past + n);
    if (!args.silu) return;
    Layout::template convolve<-1>(out, x + past * unit, n, taps.w, K, taps.bias);
    times_slope(g, out, n * unit);
    // Where x has a NaN, so may have the convolution outside of the sequence.
    const std::int64_t begin = least(n, most(0, -first)), end = most(0, least(n, args.x.size[2] - first));
    std::memset(g, 0, begin * unit * sizeof(T));
    std::memset(g + end * unit, 0, (n - end) * unit * sizeof(T));
  }

  // Writes the gradients of n samples. They begin where `g` does.
  void write_signal(const View& to, std::int64_t b, std::int64_t first, std::int64_t n) {
    alignas(64) const T zero[unit] = {};
    Layout::template convolve<1>(out, g, rounded_up(n, whole), taps.w, K, zero);
    Layout::write_samples(to, b, d, rows, first, out, n);
  }
};

template <class T, class Layout>
void short_conv_backward_in(const ShortConvBackward& args, std::int64_t first, std::int64_t last) {
  constexpr std::int64_t step = Layout::step, unit = Layout::unit;
  const std::int64_t length = args.x.size[2];
  const bool for_taps = args.dweight || args.dbias;
  ShortGradients<T, Layout> part(args);
  const std::int64_t K = part.K, past = part.past;
  for (std::int64_t d = first; d < last; d += Layout::channels) {
    const std::int64_t rows = least(Layout::channels, last - d);
    part.take(d, rows);
    double sums[(most_short_taps + 1) * unit];
    std::memset(sums, 0, (K + 1) * unit * sizeof(double));
    for (std::int64_t b = 0; b < args.x.size[0]; ++b) {
      for (std::int64_t t = 0; t < length; t += step) {
        // The gradient of a sample depends on the K - 1 positions behind it.
        const std::int64_t n = least(step, length - t), all = rounded_up(n, Layout::whole);
        part.read_stretch(b, t, args.dx ? all + past : all, for_taps);
        if (args.dx) part.write_signal(args.dx, b, t, n);
        if (for_taps) Layout::add_products(sums, part.g, part.x + past * unit, all, K);
      }
      if (args.dstate) {
        part.read_stretch(b, 1 - K, 2 * past, false);
        part.write_signal(args.dstate, b, 0, K - 1);
      }
    }
    for (std::int64_t r = 0; r < rows; ++r) {
      double taps[most_short_taps];
      for (std::int64_t k = 0; k < K; ++k) taps[k] = sums[k * unit + r];
      if (args.dweight) write(row(args.dweight, d + r), 0, taps, K);
      if (args.dbias) write(element(args.dbias, d + r), 0, sums + K * unit + r, 1);
    }
  }
}

template <class T>
void short_conv_forward(const ShortConvForward& args, std::int64_t first, std::int64_t last) {
  in_groups(args.x, args.weight) ? short_conv_forward_in<T, Lanes<T>>(args, first, last)
                                 : short_conv_forward_in<T, Rows<T>>(args, first, last);
}

template <class T>
void short_conv_backward(const ShortConvBackward& args, std::int64_t first, std::int64_t last) {
  in_groups(args.x, args.weight) ? short_conv_backward_in<T, Lanes<T>>(args, first, last)
                                 : short_conv_backward_in<T, Rows<T>>(args, first, last);
}

}  // namespace
}  // namespace hyena
