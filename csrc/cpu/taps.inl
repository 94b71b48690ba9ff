// Short convolutions. Along a row they are vectors of positions; in channel-last projections they are vectors of channels,
// where the taps need no shifts, and results turn channel-first in blocks of as many positions as a vector is wide.
//
// A mixer takes a few channels at a time through everything: projections to gates and signal, long convolutions in the
// scratch rows they were written to, and back to channel-last. Nothing of the size of the input is made on the way.
#include "rows.h"
#include "scratch.h"
#include "taps.h"

namespace hyena {
namespace {

template <class T>
constexpr int width = Simd<T>::width;

// Rows of a tile before its first position, and rows whose gradients reach back into a tile: max_taps - 1 or more.
constexpr std::int64_t history = 8;
constexpr std::int64_t tile_rows = 64;

HYENA_INLINE std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
HYENA_INLINE std::int64_t most(std::int64_t a, std::int64_t b) { return a < b ? b : a; }

template <class T>
constexpr Dtype dtype_of() {
  return sizeof(T) == 4 ? Dtype::f32 : Dtype::f64;
}

template <class T>
bool plain(const View& v) {
  return v.dtype == dtype_of<T>() && v.stride[2] == 1;
}

// Rows, channels and positions of contiguous memory as a tensor (batch, channels, length).
template <class T>
View memory_view(T* data, std::int64_t batch, std::int64_t channels, std::int64_t length, std::int64_t row_stride) {
  View v;
  v.data = data;
  v.dtype = dtype_of<T>();
  v.size[0] = batch, v.size[1] = channels, v.size[2] = length;
  v.stride[0] = channels * row_stride, v.stride[1] = row_stride, v.stride[2] = 1;
  return v;
}

// The same tensor from one index of its second dimension on.
View from_channel(View v, std::int64_t channel, std::int64_t channels) {
  if (v) v.data = static_cast<char*>(v.data) + channel * v.stride[1] * bytes_of(v.dtype);
  v.size[1] = channels;
  return v;
}

// Channels c, c + 1, … of one position of a channel-last tensor, as a row.
Row lanes_at(const View& v, std::int64_t b, std::int64_t t, std::int64_t c) {
  const std::int64_t at = b * v.stride[0] + t * v.stride[1] + c * v.stride[2];
  return {static_cast<char*>(v.data) + at * bytes_of(v.dtype), v.dtype, v.stride[2]};
}

// Vector r of the tile holds channels c … c + lanes - 1 of position first + r; zero outside of the sequence.
template <class T>
void fill_tile(T* tile, const View& x, std::int64_t b, std::int64_t c, std::int64_t lanes, std::int64_t first,
               std::int64_t rows) {
  constexpr int W = width<T>;
  const bool fast = plain<T>(x) && lanes == W;
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::int64_t t = first + r;
    if (t < 0 || t >= x.size[1]) {
      store(tile + r * W, Vec<T>{});
    } else if (fast) {
      const T* from = static_cast<const T*>(x.data) + b * x.stride[0] + t * x.stride[1] + c;
      store(tile + r * W, load_unaligned(from));
      // Rows are far apart, each a cache line of its own that the processor does not see coming.
      __builtin_prefetch(from + tile_rows * x.stride[1]);
    } else {
      store(tile + r * W, Vec<T>{});
      read<With::set>(tile + r * W, lanes_at(x, b, t, c), 0, lanes);
    }
  }
}

template <class T>
HYENA_INLINE void put_lanes(const View& y, bool fast, std::int64_t b, std::int64_t t, std::int64_t c,
                            std::int64_t lanes, Vec<T> value) {
  if (fast) {
    T* to = static_cast<T*>(y.data) + b * y.stride[0] + t * y.stride[1] + c;
    store_unaligned(to, value);
    __builtin_prefetch(to + tile_rows * y.stride[1], 1);
  } else {
    alignas(64) T values[width<T>];
    store(values, value);
    write(lanes_at(y, b, t, c), 0, values, lanes);
  }
}

// `rows` vectors of a tile, which hold channels, to rows c … of a channel-first tensor, from position t on.
template <class T>
void put_rows(const View& v, std::int64_t b, std::int64_t c, std::int64_t lanes, std::int64_t t, const T* tile,
              std::int64_t rows) {
  constexpr int W = width<T>;
  const bool fast = plain<T>(v);
  for (std::int64_t r = 0; r < rows; r += W) {
    Vec<T> block[W];
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) block[i] = load(tile + (r + i) * W);
    transpose<T>(block);
    const std::int64_t n = least(W, rows - r);
    if (fast && n == W && lanes == W) {
      T* out = static_cast<T*>(v.data) + b * v.stride[0] + c * v.stride[1] + t + r;
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) store_unaligned(out + i * v.stride[1], block[i]);
      continue;
    }
    for (std::int64_t i = 0; i < lanes; ++i) {
      alignas(64) T values[W];
      store(values, block[i]);
      write(row(v, b, c + i), t + r, values, n);
    }
  }
}

// The way back; zero behind the end of the rows. Writes whole blocks, up to rows rounded up to the vector width.
template <class T>
void get_rows(const View& v, std::int64_t b, std::int64_t c, std::int64_t lanes, std::int64_t t, T* tile,
              std::int64_t rows) {
  constexpr int W = width<T>;
  const bool fast = plain<T>(v);
  for (std::int64_t r = 0; r < rows; r += W) {
    Vec<T> block[W];
    const std::int64_t n = least(W, v.size[2] - t - r);
    if (fast && n == W && lanes == W) {
      const T* in = static_cast<const T*>(v.data) + b * v.stride[0] + c * v.stride[1] + t + r;
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) block[i] = load_unaligned(in + i * v.stride[1]);
    } else {
      for (int i = 0; i < W; ++i) {
        alignas(64) T values[W] = {};
        if (i < lanes && n > 0) read<With::set>(values, row(v, b, c + i), t + r, n);
        block[i] = load(values);
      }
    }
    transpose<T>(block);
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) store(tile + (r + i) * W, block[i]);
  }
}

// Number of taps known when compiling, or 0.
template <int taps, class T>
void convolve(const T* tile, const T* weights, int count, T* out, std::int64_t rows) {
  constexpr int W = width<T>;
  const int K = taps ? taps : count;
  Vec<T> w[max_taps];
  for (int j = 0; j < K; ++j) w[j] = load(weights + j * W);
  const Vec<T> bias = load(weights + max_taps * W);
  const T* in = tile + (history - (K - 1)) * W;
  for (std::int64_t r = 0; r < rows; ++r) {
    Vec<T> sum = bias;
    for (int j = 0; j < K; ++j) sum += w[j] * load(in + (r + j) * W);
    store(out + r * W, sum);
  }
}

// The same taps in reverse, over what follows a position: the gradient of convolve() in its input.
template <int taps, class T>
void correlate(const T* in, const T* weights, int count, T* out, std::int64_t rows) {
  constexpr int W = width<T>;
  const int K = taps ? taps : count;
  Vec<T> w[max_taps];
  for (int j = 0; j < K; ++j) w[j] = load(weights + j * W);
  for (std::int64_t r = 0; r < rows; ++r) {
    Vec<T> sum = w[K - 1] * load(in + r * W);
    for (int lag = 1; lag < K; ++lag) sum += w[K - 1 - lag] * load(in + (r + lag) * W);
    store(out + r * W, sum);
  }
}

// Adds to `sums` (max_taps + 1, width) the gradients of the taps, and of the bias, which is a tap on ones.
template <int taps, class T>
void add_products(const T* grad, const T* tile, int count, double* sums, std::int64_t rows) {
  constexpr int W = width<T>;
  const int K = taps ? taps : count;
  // Side by side: one sum at a time would wait for itself at every row.
  Vec<T> products[taps ? taps : max_taps] = {}, total{};
  const T* in = tile + (history - (K - 1)) * W;
  for (std::int64_t r = 0; r < rows; ++r) {
    const Vec<T> g = load(grad + r * W);
    for (int j = 0; j < K; ++j) products[j] += g * load(in + (r + j) * W);
    total += g;
  }
  for (int j = 0; j < K; ++j)
    for (int lane = 0; lane < W; ++lane) sums[j * W + lane] += products[j][lane];
  for (int lane = 0; lane < W; ++lane) sums[max_taps * W + lane] += total[lane];
}

// Short filters of some channels of every part, as vectors of channels: (parts, max_taps + 1, width), the bias last.
template <class T>
void pack_weights(const View& weight, const View& bias, std::int64_t parts, std::int64_t part_channels, std::int64_t c,
                  std::int64_t lanes, T* out) {
  constexpr int W = width<T>;
  std::memset(out, 0, parts * (max_taps + 1) * W * sizeof(T));
  for (std::int64_t p = 0; p < parts; ++p, out += (max_taps + 1) * W) {
    for (std::int64_t lane = 0; lane < lanes; ++lane) {
      const std::int64_t channel = p * part_channels + c + lane;
      T taps[max_taps] = {};
      read<With::set>(taps, row(weight, channel), 0, weight.size[1]);
      for (std::int64_t j = 0; j < weight.size[1]; ++j) out[j * W + lane] = taps[j];
      if (bias) read<With::set>(out + max_taps * W + lane, element(bias, channel), 0, 1);
    }
  }
}

// Projections x (B, L, parts * channels) of one Hyena operator with their short filters.
struct Projection {
  View x, weight, bias;
  std::int64_t parts, channels, length;

  Projection(const View& x, const View& weight, const View& bias, std::int64_t parts)
      : x(x), weight(weight), bias(bias), parts(parts), channels(x.size[2] / parts), length(x.size[1]) {}

  int taps() const { return static_cast<int>(weight.size[1]); }
};

template <class T>
void convolve_part(const Projection& in, const T* tile, const T* weights, std::int64_t part, T* out,
                   std::int64_t rows) {
  weights += part * (max_taps + 1) * width<T>;
  in.taps() == 3 ? convolve<3>(tile, weights, 3, out, rows) : convolve<0>(tile, weights, in.taps(), out, rows);
}

// Numbers of packed short filters, or of sums for their gradients, before those of channel `lane` of a group.
HYENA_INLINE std::int64_t packed(const Projection& in, std::int64_t lane) { return in.parts * (max_taps + 1) * lane; }

// Numbers of the computing type that project() and project_gradients() work in.
template <class T>
std::int64_t tile_numbers(const Projection& in) {
  return packed(in, group_channels) + (2 * in.parts + 2) * (history + tile_rows) * width<T>;
}

// Calls work(lane, lanes) for every vector of some channels.
template <class T, class Work>
HYENA_INLINE void each_vector(std::int64_t channels, const Work& work) {
  for (std::int64_t lane = 0; lane < channels; lane += width<T>) work(lane, least(width<T>, channels - lane));
}

template <class T>
void pack_group(const Projection& in, std::int64_t c, std::int64_t channels, T* weights) {
  each_vector<T>(channels, [&](std::int64_t lane, std::int64_t lanes) {
    pack_weights(in.weight, in.bias, in.parts, in.channels, c + lane, lanes, weights + packed(in, lane));
  });
}

// Channels c … of one batch row, at most a group: p_N * p_{N-1} to channels `to` … of `first`, p_j to channels
// j * gate_channels + to … of `gates`, both at their own batch row. A group is the cache line that all of its vectors are
// parts of, so they take turns at each tile.
template <class T>
void project(const Projection& in, std::int64_t b, std::int64_t c, std::int64_t channels, const View& first,
             const View& gates, std::int64_t gate_channels, std::int64_t to_batch, std::int64_t to, T* memory) {
  constexpr int W = width<T>;
  T* weights = memory;
  T* tile = weights + packed(in, group_channels);
  T* left = tile + (history + tile_rows) * W;
  T* right = left + tile_rows * W;
  pack_group(in, c, channels, weights);
  for (std::int64_t t = 0; t < in.length; t += tile_rows) {
    const std::int64_t rows = least(tile_rows, in.length - t);
    each_vector<T>(channels, [&](std::int64_t lane, std::int64_t lanes) {
      const auto part = [&](std::int64_t p, T* out) {
        fill_tile(tile, in.x, b, p * in.channels + c + lane, lanes, t - history, history + rows);
        convolve_part(in, tile, weights + packed(in, lane), p, out, rows);
      };
      part(in.parts - 1, left);
      part(in.parts - 2, right);
      for (std::int64_t i = 0; i < rows * W; i += W) store(left + i, load(left + i) * load(right + i));
      put_rows(first, to_batch, to + lane, lanes, t, left, rows);
      for (std::int64_t p = 0; p < in.parts - 2; ++p) {
        part(p, left);
        put_rows(gates, to_batch, p * gate_channels + to + lane, lanes, t, left, rows);
      }
    });
  }
}

// From the gradients of what project() gives to those of the projections at positions t … t + rows - 1 of a vector of
// channels c … and, added to `sums` (parts, max_taps + 1, width), of the short filters and their bias.
template <class T>
void tile_gradients(const Projection& in, std::int64_t b, std::int64_t c, std::int64_t lanes, std::int64_t t,
                    std::int64_t rows, const View& dfirst, const View& dgates, std::int64_t gate_channels,
                    std::int64_t from_batch, std::int64_t from, const View& dx, double* sums, const T* weights,
                    T* memory) {
  constexpr int W = width<T>;
  const int K = in.taps();
  T* tiles = memory;
  T* grads = tiles + in.parts * (history + tile_rows) * W;
  T* left = grads + in.parts * tile_rows * W;
  T* right = left + tile_rows * W;
  const bool fast = dx && plain<T>(dx) && lanes == W;
  const auto tile = [&](std::int64_t p) { return tiles + p * (history + tile_rows) * W; };
  const auto grad = [&](std::int64_t p) { return grads + p * tile_rows * W; };
  for (std::int64_t p = 0; p < in.parts; ++p)
    fill_tile(tile(p), in.x, b, p * in.channels + c, lanes, t - history, history + tile_rows);
  const std::int64_t N = in.parts - 1;
  convolve_part(in, tile(N), weights, N, left, tile_rows);
  convolve_part(in, tile(N - 1), weights, N - 1, right, tile_rows);
  get_rows(dfirst, from_batch, from, lanes, t, grad(N), tile_rows);
  const std::int64_t inside = least(tile_rows, in.length - t) * W;
  for (std::int64_t i = 0; i < inside; i += W) {
    const Vec<T> g = load(grad(N) + i);
    store(grad(N - 1) + i, g * load(left + i));
    store(grad(N) + i, g * load(right + i));
  }
  // There is no gradient behind the end of the sequence.
  std::memset(grad(N - 1) + inside, 0, (tile_rows * W - inside) * sizeof(T));
  for (std::int64_t p = 0; p < N - 1; ++p)
    get_rows(dgates, from_batch, p * gate_channels + from, lanes, t, grad(p), tile_rows);
  for (std::int64_t p = 0; p <= N; ++p) {
    const T *w = weights + p * (max_taps + 1) * W, *g = grad(p);
    if (dx) {
      K == 3 ? correlate<3>(g, w, 3, left, rows) : correlate<0>(g, w, K, left, rows);
      for (std::int64_t r = 0; r < rows; ++r)
        put_lanes<T>(dx, fast, b, t + r, p * in.channels + c, lanes, load(left + r * W));
    }
    if (sums == nullptr) continue;
    double* sum = sums + p * (max_taps + 1) * W;
    K == 3 ? add_products<3>(g, tile(p), 3, sum, rows) : add_products<0>(g, tile(p), K, sum, rows);
  }
}

// The same of at most a group of channels of one batch row, as in project().
template <class T>
void project_gradients(const Projection& in, std::int64_t b, std::int64_t c, std::int64_t channels, const View& dfirst,
                       const View& dgates, std::int64_t gate_channels, std::int64_t from_batch, std::int64_t from,
                       const View& dx, double* sums, T* memory) {
  constexpr std::int64_t step = tile_rows - history;
  T *weights = memory, *tiles = weights + packed(in, group_channels);
  pack_group(in, c, channels, weights);
  for (std::int64_t t = 0; t < in.length; t += step) {
    each_vector<T>(channels, [&](std::int64_t lane, std::int64_t lanes) {
      tile_gradients(in, b, c + lane, lanes, t, least(step, in.length - t), dfirst, dgates, gate_channels, from_batch,
                     from + lane, dx, sums ? sums + packed(in, lane) : nullptr, weights + packed(in, lane), tiles);
    });
  }
}

template <class T>
void write_sums(const View& dweight, const View& dbias, std::int64_t parts, std::int64_t part_channels, std::int64_t c,
                std::int64_t lanes, const double* sums, std::int64_t taps) {
  constexpr int W = width<T>;
  for (std::int64_t p = 0; p < parts; ++p, sums += (max_taps + 1) * W) {
    for (std::int64_t lane = 0; lane < lanes; ++lane) {
      const std::int64_t channel = p * part_channels + c + lane;
      for (std::int64_t j = 0; dweight && j < taps; ++j) write(row(dweight, channel), j, sums + j * W + lane, 1);
      if (dbias) write(element(dbias, channel), 0, sums + max_taps * W + lane, 1);
    }
  }
}

template <class T>
void write_group_sums(const Projection& in, const View& dweight, const View& dbias, std::int64_t c,
                      std::int64_t channels, const double* sums) {
  each_vector<T>(channels, [&](std::int64_t lane, std::int64_t lanes) {
    write_sums<T>(dweight, dbias, in.parts, in.channels, c + lane, lanes, sums + packed(in, lane), in.taps());
  });
}

// Rows of a short convolution that are worked on at a time.
constexpr std::int64_t stretch = 512;

// out[i] = elements first - history + i of a row, zero outside of it, for history + n elements.
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
        // Both hold a little more than the stretch: what is added there is not written, or is zero.
        alignas(64) T x[history + stretch], g[history + stretch + history], out[stretch];
        const std::int64_t n = least(stretch, length - t);
        // The gradient of a position comes from the positions behind it.
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

// A mixer or projection, whose channels come in groups.
template <class T>
void project_forward(const ProjectForward& args, std::int64_t first_group, std::int64_t last_group) {
  const Projection in(args.x, args.weight, args.bias, args.gates.size[1] / args.first.size[1] + 2);
  T* memory = static_cast<T*>(scratch(For::mixer, tile_numbers<T>(in) * sizeof(T)));
  const std::int64_t end = least(in.channels, last_group * group_channels);
  for (std::int64_t c = first_group * group_channels; c < end; c += group_channels)
    for (std::int64_t b = 0; b < in.x.size[0]; ++b)
      project(in, b, c, least(group_channels, end - c), args.first, args.gates, in.channels, b, c, memory);
}

template <class T>
void project_backward(const ProjectBackward& args, std::int64_t first_group, std::int64_t last_group) {
  const Projection in(args.x, args.weight, args.bias, args.dgates.size[1] / args.dfirst.size[1] + 2);
  const std::int64_t sum_count = packed(in, group_channels);
  double* sums =
      static_cast<double*>(scratch(For::mixer, sum_count * sizeof(double) + tile_numbers<T>(in) * sizeof(T)));
  T* memory = reinterpret_cast<T*>(sums + sum_count);
  const std::int64_t end = least(in.channels, last_group * group_channels);
  for (std::int64_t c = first_group * group_channels; c < end; c += group_channels) {
    const std::int64_t channels = least(group_channels, end - c);
    std::memset(sums, 0, sum_count * sizeof(double));
    for (std::int64_t b = 0; b < in.x.size[0]; ++b)
      project_gradients(in, b, c, channels, args.dfirst, args.dgates, in.channels, b, c, args.dx,
                        args.dweight || args.dbias ? sums : nullptr, memory);
    write_group_sums<T>(in, args.dweight, args.dbias, c, channels, sums);
  }
}

// How many channels and batch rows a mixer takes at a time, so that its arrays of rows stay below a bound.
struct Slice {
  static constexpr std::int64_t bytes = std::int64_t{64} << 20;
  std::int64_t channels, batch, row_stride;

  Slice(std::int64_t batch_size, std::int64_t length, std::int64_t arrays, std::int64_t number) {
    // Whole vectors, and an odd number of cache lines so that the rows of a block do not compete for one place.
    row_stride = ((length * number + 63) / 64 | 1) * 64 / number;
    const std::int64_t row_bytes = arrays * row_stride * number;
    channels = group_channels;
    while (channels > 4 && channels * row_bytes > bytes) channels /= 2;
    batch = most(1, least(most(1, batch_size), bytes / (channels * row_bytes)));
  }
};

// Filter o of the channels from c on, (channels, K).
View filters(const View& k, std::int64_t o, std::int64_t c, std::int64_t channels) {
  View v;
  if (!k) return v;
  v.data = static_cast<char*>(k.data) + (o * k.stride[0] + c * k.stride[1]) * bytes_of(k.dtype);
  v.dtype = k.dtype;
  v.size[0] = channels, v.size[1] = k.size[2];
  v.stride[0] = k.stride[1], v.stride[1] = k.stride[2];
  return v;
}

template <class T>
FftconvForward convolution(const View& signal, const View& gate, const View& result, const View& k, const View& skip) {
  FftconvForward args;
  args.y = result, args.u = signal, args.k = k, args.skip = skip, args.post_gate = gate;
  args.wide = sizeof(T) == 8;
  return args;
}

template <class T>
void mixer_forward(const MixerForward& args, std::int64_t first_group, std::int64_t last_group) {
  constexpr std::int64_t W = width<T>;
  const std::int64_t steps = args.k.size[0], batch = args.x.size[0];
  const Projection in(args.x, args.weight, args.bias, steps + 2);
  const Slice slice(batch, in.length, steps + 1, sizeof(T));
  const std::int64_t rows = slice.batch * slice.channels * slice.row_stride;
  T* memory = static_cast<T*>(
      scratch(For::mixer, ((steps + 1) * rows + tile_numbers<T>(in)) * sizeof(T)));
  T *value_rows = memory, *gate_rows = value_rows + rows, *tiles = gate_rows + steps * rows;
  const std::int64_t end = least(in.channels, last_group * group_channels);
  const bool plain_y = plain<T>(args.y);
  for (std::int64_t c = first_group * group_channels; c < end; c += slice.channels) {
    const std::int64_t channels = least(slice.channels, end - c);
    for (std::int64_t b = 0; b < batch; b += slice.batch) {
      const std::int64_t count = least(slice.batch, batch - b);
      const View value = memory_view(value_rows, count, channels, in.length, slice.row_stride);
      const View gates = memory_view(gate_rows, count, steps * channels, in.length, slice.row_stride);
      for (std::int64_t i = 0; i < count; ++i)
        project(in, b + i, c, channels, value, gates, channels, i, 0, tiles);
      for (std::int64_t o = 0; o < steps; ++o) {
        // A row is read to its end before the result is written, so that it can take its place.
        const View gate = from_channel(gates, (steps - 1 - o) * channels, channels);
        HYENA_KERNELS(fftconv).forward(
            convolution<T>(value, gate, value, filters(args.k, o, c, channels), filters(args.skip, o, c, channels)), 0,
            channels);
      }
      for (std::int64_t i = 0; i < count; ++i) {
        for (std::int64_t t = 0; t < in.length; t += tile_rows) {
          const std::int64_t n = least(tile_rows, in.length - t);
          each_vector<T>(channels, [&](std::int64_t lane, std::int64_t lanes) {
            get_rows(value, i, lane, lanes, t, tiles, n);
            for (std::int64_t r = 0; r < n; ++r)
              put_lanes<T>(args.y, plain_y && lanes == W, b + i, t + r, c + lane, lanes, load(tiles + r * W));
          });
        }
      }
    }
  }
  trim_scratch(For::mixer);
}

template <class T>
void mixer_backward(const MixerBackward& args, std::int64_t first_group, std::int64_t last_group) {
  const std::int64_t steps = args.k.size[0], taps = args.k.size[2], batch = args.x.size[0];
  const Projection in(args.x, args.weight, args.bias, steps + 2);
  const bool for_taps = args.dweight || args.dbias, for_projections = args.dx || for_taps;
  const Slice slice(batch, in.length, 2 * steps + 1, sizeof(T));
  const bool sliced = slice.batch < batch;
  const std::int64_t rows = slice.batch * slice.channels * slice.row_stride;
  const std::int64_t filter_count = sliced ? slice.channels * (taps + 1) : 0;
  const std::int64_t sum_count = packed(in, group_channels);
  double* sums = static_cast<double*>(scratch(
      For::mixer, (sum_count + steps * filter_count) * sizeof(double) +
                      ((2 * steps + 1) * rows + filter_count + tile_numbers<T>(in) + 16) * sizeof(T)));
  double* filter_sums = sums + sum_count;
  // The scratch starts at a cache line, and so should the vectors behind the sums.
  T* memory = reinterpret_cast<T*>((reinterpret_cast<std::uintptr_t>(filter_sums + steps * filter_count) + 63) / 64 * 64);
  T *value_rows = memory, *gate_rows = value_rows + steps * rows, *grad_rows = gate_rows + steps * rows;
  T *tiles = grad_rows + rows, *filter_part = tiles + tile_numbers<T>(in);
  const std::int64_t end = least(in.channels, last_group * group_channels);
  for (std::int64_t c = first_group * group_channels; c < end; c += slice.channels) {
    const std::int64_t channels = least(slice.channels, end - c);
    std::memset(sums, 0, (sum_count + steps * filter_count) * sizeof(double));
    for (std::int64_t b = 0; b == 0 || b < batch; b += slice.batch) {
      const std::int64_t count = least(slice.batch, batch - b);
      const View gates = memory_view(gate_rows, count, steps * channels, in.length, slice.row_stride);
      const auto value = [&](std::int64_t o) {
        return memory_view(value_rows + o * rows, count, channels, in.length, slice.row_stride);
      };
      const auto gate = [&](std::int64_t o) { return from_channel(gates, (steps - 1 - o) * channels, channels); };
      const auto k = [&](std::int64_t o) { return filters(args.k, o, c, channels); };
      const auto skip = [&](std::int64_t o) { return filters(args.skip, o, c, channels); };
      View grad = memory_view(grad_rows, count, channels, in.length, slice.row_stride);
      for (std::int64_t i = 0; i < count; ++i) {
        project(in, b + i, c, channels, value(0), gates, channels, i, 0, tiles);
        for (std::int64_t t = 0; t < in.length; t += tile_rows) {
          const std::int64_t n = least(tile_rows, in.length - t);
          each_vector<T>(channels, [&](std::int64_t lane, std::int64_t lanes) {
            fill_tile(tiles, args.dy, b + i, c + lane, lanes, t, n);
            put_rows(grad, i, lane, lanes, t, tiles, n);
          });
        }
      }
      for (std::int64_t o = 0; o + 1 < steps; ++o)
        HYENA_KERNELS(fftconv).forward(convolution<T>(value(o), gate(o), value(o + 1), k(o), skip(o)), 0, channels);
      for (std::int64_t o = steps - 1; o >= 0; --o) {
        FftconvBackward step;
        step.dy = grad, step.u = value(o), step.k = k(o), step.skip = skip(o), step.post_gate = gate(o);
        step.wide = sizeof(T) == 8;
        // Gradients take the places of what they are gradients of: each is written when that has been read.
        if (for_projections || o > 0) step.du = value(o);
        if (for_projections) step.dpost_gate = gate(o);
        const View part = memory_view(filter_part, 1, slice.channels, taps, taps);
        const View skip_part = memory_view(filter_part + slice.channels * taps, 1, slice.channels, 1, 1);
        if (args.dk) step.dk = sliced ? filters(part, 0, 0, channels) : filters(args.dk, o, c, channels);
        if (args.dskip) step.dskip = sliced ? filters(skip_part, 0, 0, channels) : filters(args.dskip, o, c, channels);
        HYENA_KERNELS(fftconv).backward(step, 0, channels);
        if (sliced) {
          double* sum = filter_sums + o * filter_count;
          for (std::int64_t i = 0; i < slice.channels * taps && args.dk; ++i) sum[i] += filter_part[i];
          for (std::int64_t i = slice.channels * taps; i < filter_count && args.dskip; ++i) sum[i] += filter_part[i];
        }
        grad = value(o);
      }
      if (!for_projections) continue;
      for (std::int64_t i = 0; i < count; ++i)
        project_gradients(in, b + i, c, channels, value(0), gates, channels, i, 0, args.dx, for_taps ? sums : nullptr,
                          tiles);
    }
    if (for_taps) write_group_sums<T>(in, args.dweight, args.dbias, c, channels, sums);
    for (std::int64_t o = 0; sliced && o < steps; ++o) {
      const double* sum = filter_sums + o * filter_count;
      for (std::int64_t i = 0; i < channels; ++i) {
        if (args.dk) write(row(args.dk, o, c + i), 0, sum + i * taps, taps);
        if (args.dskip) write(row(args.dskip, o), c + i, sum + slice.channels * taps + i, 1);
      }
    }
  }
  trim_scratch(For::mixer);
}

template <class Args, void (*wide)(const Args&, std::int64_t, std::int64_t),
          void (*narrow)(const Args&, std::int64_t, std::int64_t)>
void either(const Args& args, std::int64_t first, std::int64_t last) {
  args.wide ? wide(args, first, last) : narrow(args, first, last);
}

}  // namespace

const TapsKernels HYENA_KERNELS(taps) = {
    either<ShortConvForward, short_conv_forward<double>, short_conv_forward<float>>,
    either<ShortConvBackward, short_conv_backward<double>, short_conv_backward<float>>,
    either<ProjectForward, project_forward<double>, project_forward<float>>,
    either<ProjectBackward, project_backward<double>, project_backward<float>>,
    either<MixerForward, mixer_forward<double>, mixer_forward<float>>,
    either<MixerBackward, mixer_backward<double>, mixer_backward<float>>,
};

}  // namespace hyena
