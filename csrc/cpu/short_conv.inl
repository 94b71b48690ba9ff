// Short convolutions of rows. Lanes of vectors are positions.
#pragma once

#include "channel_tiles.inl"

namespace hyena {
namespace {

// Positions of a row that are processed at a time
constexpr std::int64_t stretch = 512;

// out[i] = element first - history + i of a row, zero outside the row, for history + n elements.
template <class T>
void read_stretch(T* out, const Row& in, std::int64_t length, std::int64_t first, std::int64_t n) {
  const std::int64_t before = most(0, history - first), end = least(history + n, length - first + history);
  std::memset(out, 0, before * sizeof(T));
  read<With::set>(out + before, in, first - history + before, end - before);
  std::memset(out + end, 0, (history + n - end) * sizeof(T));
}

template <class T>
void short_conv_forward(const ShortConvForward& args, std::int64_t first, std::int64_t last) {
  constexpr int W = width<T>;
  const std::int64_t K = args.weight.size[1], length = args.x.size[2];
  for (std::int64_t d = first; d < last; ++d) {
    T w[max_taps], bias = 0;
    read<With::set>(w, row(args.weight, d), 0, K);
    if (args.bias) read<With::set>(&bias, element(args.bias, d), 0, 1);
    for (std::int64_t b = 0; b < args.x.size[0]; ++b) {
      for (std::int64_t t = 0; t < length; t += stretch) {
        alignas(64) T in[history + stretch], out[stretch];
        const std::int64_t n = least(stretch, length - t);
        read_stretch(in, row(args.x, b, d), length, t, n + W - 1 < stretch ? n + W - 1 : stretch);
        for (std::int64_t i = 0; i < n; i += W) {
          Vec<T> sum = load_unaligned(in + history + i) * w[K - 1];
          for (std::int64_t lag = 1; lag < K; ++lag) sum += load_unaligned(in + history + i - lag) * w[K - 1 - lag];
          store(out + i, sum + bias);
        }
        write(row(args.y, b, d), t, out, n);
      }
    }
  }
}

template <class T>
void short_conv_backward(const ShortConvBackward& args, std::int64_t first, std::int64_t last) {
  constexpr int W = width<T>;
  const std::int64_t K = args.weight.size[1], length = args.x.size[2];
  const bool for_taps = args.dweight || args.dbias;
  for (std::int64_t d = first; d < last; ++d) {
    T w[max_taps];
    read<With::set>(w, row(args.weight, d), 0, K);
    double sums[max_taps + 1] = {};
    for (std::int64_t b = 0; b < args.x.size[0]; ++b) {
      for (std::int64_t t = 0; t < length; t += stretch) {
        // x and g are longer than the stretch. Results behind its end are not written, and gradients there are zero.
        alignas(64) T x[history + stretch], g[history + stretch + history], out[stretch];
        const std::int64_t n = least(stretch, length - t);
        // The gradient of a position depends on the positions behind it.
        read_stretch(g, row(args.dy, b, d), length, t, stretch + history);
        if (args.dx) {
          for (std::int64_t i = 0; i < n; i += W) {
            Vec<T> sum = load_unaligned(g + history + i) * w[K - 1];
            for (std::int64_t lag = 1; lag < K; ++lag) sum += load_unaligned(g + history + i + lag) * w[K - 1 - lag];
            store(out + i, sum);
          }
          write(row(args.dx, b, d), t, out, n);
        }
        if (!for_taps) continue;
        read_stretch(x, row(args.x, b, d), length, t, stretch);
        for (std::int64_t lag = 0; lag <= K; ++lag) {
          Vec<T> total{};
          for (std::int64_t i = 0; i < n; i += W) {
            const Vec<T> grad = load_unaligned(g + history + i);
            total += lag < K ? grad * load_unaligned(x + history + i - lag) : grad;
          }
          for (int lane = 0; lane < W; ++lane) sums[lag < K ? K - 1 - lag : max_taps] += total[lane];
        }
      }
    }
    if (args.dweight) write(row(args.dweight, d), 0, sums, K);
    if (args.dbias) write(element(args.dbias, d), 0, sums + max_taps, 1);
  }
}

}  // namespace
}  // namespace hyena
