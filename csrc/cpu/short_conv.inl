// Short convolutions of rows. Lanes of vectors are positions.
//
// A channel-last tensor goes through the same rows: as many channels as a vector has lanes are transposed on the way in
// and on the way out. So both orders of memory give the same results, and each cache line is read once.
#pragma once

#include "channel_tiles.inl"
#include "elementary.h"

namespace hyena {
namespace {

// Positions that are processed at a time, for one row and for several
template <int rows>
constexpr std::int64_t stretch = rows == 1 ? 512 : 128;

// Vectors of results that are summed at a time: enough independent sums to hide the latency of a multiply-add
constexpr int together = 8;

template <class T>
HYENA_INLINE std::int64_t whole_vectors(std::int64_t n) {
  return (n + width<T> - 1) / width<T> * width<T>;
}

// A channel-last view (B, D, L) as fill_tile() and lanes_at() take it: (B, L, D)
View swapped(View v) {
  const std::int64_t size = v.size[1], stride_of_channel = v.stride[1];
  v.size[1] = v.size[2];
  v.stride[1] = v.stride[2];
  v.size[2] = size;
  v.stride[2] = stride_of_channel;
  return v;
}

// out[r pitch + i] = element first + i of row (b, d + r)
template <class T>
void read_rows(T* out, std::int64_t pitch, const View& v, std::int64_t b, std::int64_t d, std::int64_t rows,
               std::int64_t first, std::int64_t n) {
  constexpr int W = width<T>;
  if (rows == 1 || v.stride[1] != 1) {
    for (std::int64_t r = 0; r < rows; ++r) read<With::set>(out + r * pitch, row(v, b, d + r), first, n);
    return;
  }
  const View last = swapped(v);
  const bool fast = plain<T>(last) && rows == W;
  for (std::int64_t i = 0; i < n; i += W) {
    Vec<T> block[W];
    const std::int64_t now = least(W, n - i);
    for (int j = 0; j < W; ++j) {
      const Row at = lanes_at(last, b, first + i + (j < now ? j : now - 1), d);
      if (fast) {
        block[j] = load_unaligned(reinterpret_cast<const T*>(at.data));
      } else {
        alignas(64) T values[W] = {};
        read<With::set>(values, at, 0, rows);
        block[j] = load(values);
      }
    }
    transpose<T>(block);
    for (std::int64_t r = 0; r < rows; ++r) std::memcpy(out + r * pitch + i, &block[r], now * sizeof(T));
  }
}

// Writes in[r pitch + i] as element first + i of row (b, d + r). It reads whole vectors of `in`.
template <class T>
void write_rows(const View& v, std::int64_t b, std::int64_t d, std::int64_t rows, std::int64_t first, const T* in,
                std::int64_t pitch, std::int64_t n) {
  constexpr int W = width<T>;
  if (rows == 1 || v.stride[1] != 1) {
    for (std::int64_t r = 0; r < rows; ++r) write(row(v, b, d + r), first, in + r * pitch, n);
    return;
  }
  const View last = swapped(v);
  const bool fast = plain<T>(last) && rows == W;
  for (std::int64_t i = 0; i < n; i += W) {
    Vec<T> block[W] = {};
    for (std::int64_t r = 0; r < rows; ++r) block[r] = load(in + r * pitch + i);
    transpose<T>(block);
    const std::int64_t now = least(W, n - i);
    for (std::int64_t j = 0; j < now; ++j) {
      const Row at = lanes_at(last, b, first + i + j, d);
      if (fast) {
        store_unaligned(reinterpret_cast<T*>(at.data), block[j]);
      } else {
        alignas(64) T values[W];
        store(values, block[j]);
        write(at, 0, values, rows);
      }
    }
  }
}

// As read_rows() for positions inside and outside of the sequence. Before its start are the samples of `state`, if there
// is one, and everything else is zero.
template <class T>
void read_samples(T* out, std::int64_t pitch, const View& v, const View& state, std::int64_t b, std::int64_t d,
                  std::int64_t rows, std::int64_t first, std::int64_t n) {
  const std::int64_t past = state ? state.size[2] : 0;
  const auto index = [=](std::int64_t position) { return least(n, most(0, position - first)); };
  const std::int64_t before = index(-past), begin = index(0), end = index(v.size[2]);
  for (std::int64_t r = 0; r < rows; ++r) {
    T* to = out + r * pitch;
    std::memset(to, 0, before * sizeof(T));
    if (begin > before) read<With::set>(to + before, row(state, b, d + r), first + before + past, begin - before);
    std::memset(to + end, 0, (n - end) * sizeof(T));
  }
  if (end > begin) read_rows(out + begin, pitch, v, b, d, rows, first + begin, end - begin);
}

// out[i] = bias + sum over lags of w[K - 1 - lag] in[i + direction lag], for whole vectors of n elements
template <int direction, class T>
void convolve(T* out, const T* in, std::int64_t n, const T* w, std::int64_t K, T bias) {
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
    for (int j = 0; j < together; ++j) store(out + i + j * W, sums[j] + bias);
  }
  for (; i < n; i += W) {
    Vec<T> sum = load_unaligned(in + i) * w[K - 1];
    for (std::int64_t lag = 1; lag < K; ++lag) sum += load_unaligned(in + i + direction * lag) * w[K - 1 - lag];
    store(out + i, sum + bias);
  }
}

// Adds to sums[K - 1 - lag] the sum of g[i] x[i - lag] over whole vectors of n elements, and the sum of g to sums[K].
template <class T>
void add_products(double* sums, const T* g, const T* x, std::int64_t n, std::int64_t K) {
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

template <class T, int most_rows>
void short_conv_forward_rows(const ShortConvForward& args, std::int64_t first, std::int64_t last) {
  constexpr std::int64_t step = stretch<most_rows>, pitch = most_short_taps + step;
  const std::int64_t K = args.weight.size[1], length = args.x.size[2], past = whole_vectors<T>(K - 1);
  for (std::int64_t d = first; d < last; d += most_rows) {
    const std::int64_t rows = least(most_rows, last - d);
    T w[most_rows][most_short_taps], bias[most_rows] = {};
    for (std::int64_t r = 0; r < rows; ++r) {
      read<With::set>(w[r], row(args.weight, d + r), 0, K);
      if (args.bias) read<With::set>(bias + r, element(args.bias, d + r), 0, 1);
    }
    for (std::int64_t b = 0; b < args.x.size[0]; ++b) {
      for (std::int64_t t = 0; t < length; t += step) {
        alignas(64) T in[most_rows * pitch], out[most_rows * step];
        const std::int64_t n = least(step, length - t), whole = whole_vectors<T>(n);
        read_samples(in, pitch, args.x, args.state, b, d, rows, t - past, past + whole);
        for (std::int64_t r = 0; r < rows; ++r) {
          convolve<-1>(out + r * step, in + r * pitch + past, whole, w[r], K, bias[r]);
          if (args.silu) silu(out + r * step, whole);
        }
        write_rows(args.y, b, d, rows, t, out, step, n);
      }
    }
  }
}

// The gradients of some rows and what they are made from. `g` and `x` begin at the same position, but for the K - 1
// samples before it that `x` has too.
template <class T, int most_rows>
struct ShortGradients {
  static constexpr std::int64_t step = stretch<most_rows> > most_short_taps ? stretch<most_rows> : most_short_taps;
  static constexpr std::int64_t g_pitch = step + most_short_taps, x_pitch = g_pitch + most_short_taps;

  const ShortConvBackward& args;
  const std::int64_t K, past;
  std::int64_t d, rows;
  T w[most_rows][most_short_taps], bias[most_rows];
  alignas(64) T g[most_rows * g_pitch], x[most_rows * x_pitch], out[most_rows * g_pitch];

  // It leaves the arrays as they are: to clear them would take longer than a short row.
  explicit ShortGradients(const ShortConvBackward& gradients)
      : args(gradients), K(args.weight.size[1]), past(whole_vectors<T>(K - 1)) {}

  // Takes some rows of channels, as many as there are taps for.
  void take(std::int64_t channel, std::int64_t channels) {
    d = channel;
    rows = channels;
    for (std::int64_t r = 0; r < rows; ++r) {
      read<With::set>(w[r], row(args.weight, d + r), 0, K);
      bias[r] = 0;
      if (args.bias) read<With::set>(bias + r, element(args.bias, d + r), 0, 1);
    }
  }

  // Reads n positions, whole vectors of them. Gradients of positions outside of the sequence are zero.
  void read_stretch(std::int64_t b, std::int64_t first, std::int64_t n, bool for_taps) {
    read_samples(g, g_pitch, args.dy, View(), b, d, rows, first, n);
    if (!args.silu && !for_taps) return;
    read_samples(x, x_pitch, args.x, args.state, b, d, rows, first - past, past + n);
    if (!args.silu) return;
    const std::int64_t begin = least(n, most(0, -first)), end = most(0, least(n, args.x.size[2] - first));
    for (std::int64_t r = 0; r < rows; ++r) {
      T* grads = g + r * g_pitch;
      convolve<-1>(out, x + r * x_pitch + past, n, w[r], K, bias[r]);
      times_slope(grads, out, n);
      // Where x has a NaN, so may have the convolution behind the end.
      std::memset(grads, 0, begin * sizeof(T));
      std::memset(grads + end, 0, (n - end) * sizeof(T));
    }
  }

  // Writes the gradients of n samples. They begin where `g` does.
  void write_signal(const View& to, std::int64_t b, std::int64_t first, std::int64_t n) {
    for (std::int64_t r = 0; r < rows; ++r)
      convolve<1>(out + r * g_pitch, g + r * g_pitch, whole_vectors<T>(n), w[r], K, T(0));
    write_rows(to, b, d, rows, first, out, g_pitch, n);
  }
};

template <class T, int most_rows>
void short_conv_backward_rows(const ShortConvBackward& args, std::int64_t first, std::int64_t last) {
  using Gradients = ShortGradients<T, most_rows>;
  constexpr std::int64_t step = stretch<most_rows>;
  const std::int64_t length = args.x.size[2];
  const bool for_taps = args.dweight || args.dbias;
  Gradients part(args);
  const std::int64_t K = part.K, past = part.past;
  for (std::int64_t d = first; d < last; d += most_rows) {
    const std::int64_t rows = least(most_rows, last - d);
    part.take(d, rows);
    double sums[most_rows][most_short_taps + 1];
    for (std::int64_t r = 0; r < rows; ++r) std::memset(sums[r], 0, (K + 1) * sizeof(double));
    for (std::int64_t b = 0; b < args.x.size[0]; ++b) {
      for (std::int64_t t = 0; t < length; t += step) {
        // The gradient of a sample depends on the K - 1 positions behind it.
        const std::int64_t n = least(step, length - t), whole = whole_vectors<T>(n);
        part.read_stretch(b, t, args.dx ? whole + past : whole, for_taps);
        if (args.dx) part.write_signal(args.dx, b, t, n);
        for (std::int64_t r = 0; for_taps && r < rows; ++r)
          add_products(sums[r], part.g + r * Gradients::g_pitch, part.x + r * Gradients::x_pitch + past, whole, K);
      }
      if (args.dstate) {
        part.read_stretch(b, 1 - K, 2 * past, false);
        part.write_signal(args.dstate, b, 0, K - 1);
      }
    }
    for (std::int64_t r = 0; r < rows; ++r) {
      if (args.dweight) write(row(args.dweight, d + r), 0, sums[r], K);
      if (args.dbias) write(element(args.dbias, d + r), 0, sums[r] + K, 1);
    }
  }
}

template <class T>
void short_conv_forward(const ShortConvForward& args, std::int64_t first, std::int64_t last) {
  channel_last(args.x) ? short_conv_forward_rows<T, width<T>>(args, first, last)
                       : short_conv_forward_rows<T, 1>(args, first, last);
}

template <class T>
void short_conv_backward(const ShortConvBackward& args, std::int64_t first, std::int64_t last) {
  channel_last(args.x) ? short_conv_backward_rows<T, width<T>>(args, first, last)
                       : short_conv_backward_rows<T, 1>(args, first, last);
}

}  // namespace
}  // namespace hyena
