// Short convolutions of channel-last projections, which give the gates and the signal of a Hyena operator, and their
// gradients. Lanes of vectors are channels.
#pragma once

#include "channel_tiles.inl"
#include "scratch.h"

namespace hyena {
namespace {

// `taps` is the number of taps if the compiler knows it, else 0.
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

// The gradient of convolve() with respect to its input: the same taps in reverse, over the positions that follow.
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

// Adds the gradients of the taps and the bias to `sums` (max_taps + 1, width). The bias is a tap whose input is one.
template <int taps, class T>
void add_products(const T* grad, const T* tile, int count, double* sums, std::int64_t rows) {
  constexpr int W = width<T>;
  const int K = taps ? taps : count;
  // All sums at once: each addition to a single sum would wait for the one before.
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

// Packs the short filters of some channels of every part as vectors of channels: (parts, max_taps + 1, width). The bias
// comes last.
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

// The projections x (B, L, parts * channels) of a Hyena operator, and their short filters
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

// Where channel `lane` of a group starts in packed short filters, and in the sums for their gradients
HYENA_INLINE std::int64_t packed(const Projection& in, std::int64_t lane) { return in.parts * (max_taps + 1) * lane; }

// Size of the memory of project() and project_gradients(), in elements
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

// Projects channels c … of batch row b, at most a group. p_N * p_{N-1} goes to channels `to` … of `first`, and p_j to
// channels j * gate_channels + to … of `gates`, both in batch row `to_batch`. The vectors of a group share cache lines,
// so they take turns at each tile.
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

// Computes the gradients of the projections from those of project()'s results, for one vector of channels c … and the
// positions t … t + rows - 1. Adds those of the short filters and their bias to `sums` (parts, max_taps + 1, width).
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

// The same for channels c … of batch row b, at most a group, with the indices of project().
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

// Both take a range of groups of channels.
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

}  // namespace
}  // namespace hyena
