// Short convolutions with few taps, between tensors whose rows begin at multiples of 16 bytes. There is no tile in
// shared memory: a thread has a patch of both tensors in its registers.
#include "short_conv_patches.h"

#include <type_traits>

#include "patch.cuh"
#include "tile.cuh"

namespace hyena {
namespace {

constexpr int patch_taps = 4;  // the most taps: 3 positions before a patch reach into it
constexpr int patch_reach = patch_taps - 1;
constexpr int tap_floats = patch_taps + 1;  // per channel: weights by lag, then the bias

// How the threads of a block share channels and positions. In either order of dimensions, neighbouring threads of a
// warp read and write at least 64 neighbouring bytes.
template <int threads_, int across_, int channels_, bool channels_last_>
struct Grouping {
  static constexpr int threads = threads_, across = across_, along = threads / across;
  static constexpr int channels = channels_;  // per thread
  static constexpr int tile = across * channels, positions = along * patch_positions;
  static constexpr bool channels_last = channels_last_;

  // The place of this thread: which of `across` threads along the channels, and which of `along` threads along
  // positions.
  HYENA_DEVICE static int group() { return channels_last ? threadIdx.x % across : threadIdx.x / along; }
  HYENA_DEVICE static int row() { return channels_last ? threadIdx.x / across : threadIdx.x % along; }
  HYENA_DEVICE static int thread(int group, int row) {
    return channels_last ? row * across + group : group * along + row;
  }
};

// The parameters that a kernel is compiled for. `dtype` is that of x and dx, `inner` that of y and dy: the mixer has its
// projections in 16 bits, and everything behind them in float32.
template <Dtype dtype_, bool channels_last_, bool pair_ = false, Dtype inner_ = dtype_>
struct PatchForm {
  static constexpr Dtype dtype = dtype_, inner = inner_;
  static constexpr bool channels_last = channels_last_, pair = pair_;
  static constexpr int signals = pair ? 2 : 1;
  using Forward = std::conditional_t<channels_last, Grouping<256, 4, vector_lanes<dtype>, true>,
                                     Grouping<256, 8, 1, false>>;
  // Fewer channels per thread: it has sums and a result in its registers, and both twice for a pair.
  using Backward = std::conditional_t<!channels_last, Grouping<128, 4, 1, false>,
                                      std::conditional_t<pair, Grouping<128, 16, 2, true>, Grouping<128, 8, 4, true>>>;
  using Transposed = Grouping<256, 4, vector_lanes<dtype>, true>;
};

// Weights and biases of a tile of channels in a part and in the next part
constexpr int most_tile = 32;
constexpr int tap_bytes = 2 * most_tile * tap_floats * static_cast<int>(sizeof(float));

// taps[s, c, lag] of the tile's channels in each of `signals` parts. They are zero for lags that the filter lacks.
HYENA_DEVICE void load_patch_taps(float* taps, const View& weight, const View& bias, int64_t row, int64_t row_part,
                                  int tile, int64_t channels, int signals, int threads) {
  const int count = static_cast<int>(weight.size[1]);
  for (int i = threadIdx.x; i < signals * tile * tap_floats; i += threads) {
    const int lag = i % tap_floats, channel = i / tap_floats % tile, signal = i / tap_floats / tile;
    const int64_t at = row + signal * row_part + channel;
    float value = 0.0f;
    if (channel < channels) {
      if (lag < count && lag < patch_taps) value = load_element(row_of(weight, at), count - 1 - lag);
      if (lag == patch_taps && bias.data) value = load_element({bias.data, bias.stride[0], bias.dtype}, at);
    }
    taps[i] = value;
  }
}

// y[i] = bias + sum over lags of weight[lag] x[first + i - lag], for `count` positions
template <int count, class X>
HYENA_DEVICE void convolve_patch(float* y, const X& x, int channel, const float* taps, int reach) {
  HYENA_UNROLL
  for (int i = 0; i < count; ++i) y[i] = taps[patch_taps];
  HYENA_UNROLL
  for (int lag = 0; lag < patch_taps; ++lag) {
    // A weight of zero would not do: zero times infinity or NaN is NaN.
    if (lag > reach) continue;
    const float weight = taps[lag];
    HYENA_UNROLL
    for (int i = 0; i < count; ++i) y[i] += weight * x.get(channel, i - lag);
  }
}

struct PatchPlace {
  int64_t b, channel, t;  // the block's batch entry, first channel, and number of its tile or span of positions
};

template <class G>
HYENA_DEVICE PatchPlace patch_place(int64_t channel_tiles, int64_t rest_tiles) {
  const int64_t block = blockIdx.x, rest = block / channel_tiles;
  return {rest / rest_tiles, block % channel_tiles * G::tile, rest % rest_tiles};
}

struct PatchedForward {
  ShortConvForward a;
  int64_t channel_tiles, position_tiles;
};

template <class Form>
__global__ void __launch_bounds__(256) short_conv_patches_kernel(const __grid_constant__ PatchedForward tiled) {
  HYENA_DYNAMIC_SHARED(shared);
  constexpr Dtype dtype = Form::dtype, inner = Form::inner;
  constexpr bool channels_last = Form::channels_last;
  using G = typename Form::Forward;
  const ShortConvForward& a = tiled.a;
  const PatchPlace at = patch_place<G>(tiled.channel_tiles, tiled.position_tiles);
  const int64_t part = blockIdx.y, channels = a.x.size[1], length = a.x.size[2];
  const bool pair = a.pair && part == a.parts - 1;
  const int own = G::group() * G::channels, reach = static_cast<int>(a.weight.size[1]) - 1;
  const int64_t channel = at.channel + own, t = at.t * G::positions + G::row() * patch_positions;
  // This load is before the weights and their barrier. Otherwise a block would wait for memory twice.
  const int64_t read = channel < channels && t < length ? length : 0;
  Window<dtype, channels_last, G::channels, patch_reach, 0> x, factor;
  x.load(patch_rows<dtype, channels_last>(a.x, at.b, channel, part * a.x_part), t, read, reach);
  if (pair) factor.load(patch_rows<dtype, channels_last>(a.x, at.b, channel, (part + 1) * a.x_part), t, read, reach);

  float* taps = reinterpret_cast<float*>(shared);
  load_patch_taps(taps, a.weight, a.bias, part * a.row_part + at.channel, a.row_part, G::tile, channels - at.channel,
                  pair ? 2 : 1, G::threads);
  __syncthreads();
  if (channel >= channels || t >= length) return;
  const PatchRows rows = patch_rows<inner, false>(a.y, at.b, channel, part * a.y_part);
  unrolled<G::channels>([&](auto index) {
    constexpr int c = decltype(index)::value;
    float y[patch_positions];
    convolve_patch<patch_positions>(y, x, c, taps + (own + c) * tap_floats, reach);
    if (pair) {
      float other[patch_positions];
      convolve_patch<patch_positions>(other, factor, c, taps + (G::tile + own + c) * tap_floats, reach);
      HYENA_UNROLL
      for (int i = 0; i < patch_positions; ++i) y[i] *= other[i];
    }
    Neighbours<inner, patch_positions> result;
    HYENA_UNROLL
    for (int i = 0; i < patch_positions; i += 2) result.set_two(i, y[i], y[i + 1]);
    result.store_first(rows.data + c * rows.step + t * element_bytes<inner>, length - t);
  });
}

struct PatchedBackward {
  ShortConvBackward a;
  int64_t channel_tiles, span;  // span: its positions
};

// A channel's sums: gradients of the taps, by lag, and of the bias
using PatchSums = float[tap_floats];

// Computes the sums of one channel, and dx if it is wanted, from the gradient g at positions 0 … 7 + reach.
template <class X>
HYENA_DEVICE void differentiate(float* dx, PatchSums& sums, const float* g, const X& x, int channel, const float* taps,
                                int reach) {
  HYENA_UNROLL
  for (int i = 0; i < patch_positions; ++i) {
    dx[i] = 0.0f;
    sums[patch_taps] += g[i];
  }
  HYENA_UNROLL
  for (int lag = 0; lag < patch_taps; ++lag) {
    if (lag > reach) continue;
    const float weight = taps[lag];
    HYENA_UNROLL
    for (int i = 0; i < patch_positions; ++i) {
      dx[i] += weight * g[i + lag];
      sums[lag] += g[i] * x.get(channel, i - lag);
    }
  }
}

// Holds dx of a thread's channels until all of them are known.
template <Dtype dtype, bool channels_last, int channels>
struct PatchResult {
  Neighbours<dtype, channels_last ? channels : patch_positions> row[channels_last ? patch_positions : 1];
  float last[patch_positions];  // the channel before, if the next one shares its words

  template <int c>
  HYENA_DEVICE void set(const float* value) {
    if constexpr (!channels_last) {
      HYENA_UNROLL
      for (int i = 0; i < patch_positions; i += 2) row[0].set_two(i, value[i], value[i + 1]);
    } else {
      HYENA_UNROLL
      for (int i = 0; i < patch_positions; ++i) {
        if constexpr (c % 2 == 0)
          last[i] = value[i];
        else
          row[i].set_two(c - 1, last[i], value[i]);
      }
    }
  }

  HYENA_DEVICE void store(const PatchRows& rows, int64_t t, int64_t length) const {
    if constexpr (!channels_last) {
      row[0].store_first(rows.data + t * element_bytes<dtype>, length - t);
    } else {
      HYENA_UNROLL
      for (int i = 0; i < patch_positions; ++i)
        if (t + i < length) row[i].store(rows.data + (t + i) * rows.step);
    }
  }
};

// Adds the sums of all threads that share a channel, in the order of their positions.
template <class G, int signals>
HYENA_DEVICE void write_patch_sums(const ShortConvBackward& a, const PatchPlace& at,
                                   const PatchSums (&sums)[signals][G::channels], float* buffer) {
  HYENA_UNROLL
  for (int s = 0; s < signals; ++s) {
    HYENA_UNROLL
    for (int c = 0; c < G::channels; ++c) {
      HYENA_UNROLL
      for (int i = 0; i < tap_floats; ++i)
        buffer[((s * G::channels + c) * tap_floats + i) * G::threads + threadIdx.x] = sums[s][c][i];
    }
  }
  __syncthreads();
  const int taps = static_cast<int>(a.weight.size[1]);
  for (int i = threadIdx.x; i < signals * (taps + 1) * G::tile; i += G::threads) {
    const int channel = i % G::tile, row = i / G::tile, s = row / (taps + 1), tap = row % (taps + 1);
    if (at.channel + channel >= a.x.size[1]) continue;
    const int value = tap == taps ? patch_taps : taps - 1 - tap, c = channel % G::channels;
    const float* from = buffer + ((s * G::channels + c) * tap_floats + value) * G::threads;
    float total = 0.0f;
    for (int k = 0; k < G::along; ++k) total += from[G::thread(channel / G::channels, k)];
    store_element(row_of(a.sums, at.b * a.spans + at.t, row), at.channel + channel, total);
  }
}

template <class Form>
__global__ void __launch_bounds__(128)
    short_conv_patches_backward_kernel(const __grid_constant__ PatchedBackward tiled) {
  HYENA_DYNAMIC_SHARED(shared);
  constexpr Dtype dtype = Form::dtype, inner = Form::inner;
  constexpr bool channels_last = Form::channels_last, pair = Form::pair;
  constexpr int signals = Form::signals, around = patch_positions + patch_reach;
  using G = typename Form::Backward;
  const ShortConvBackward& a = tiled.a;
  const PatchPlace at = patch_place<G>(tiled.channel_tiles, a.spans);
  const int64_t channels = a.x.size[1], length = a.x.size[2];
  float* taps = reinterpret_cast<float*>(shared);
  load_patch_taps(taps, a.weight, a.bias, at.channel, a.row_part, G::tile, channels - at.channel, signals, G::threads);
  __syncthreads();
  const int own = G::group() * G::channels, reach = static_cast<int>(a.weight.size[1]) - 1;
  const int64_t channel = at.channel + own;
  const bool wants_sums = a.sums.data;
  PatchSums sums[signals][G::channels] = {};

  const int64_t begin = at.t * tiled.span;
  const int64_t end = begin + tiled.span < length ? begin + tiled.span : length;
  HYENA_NO_UNROLL
  for (int64_t t = begin + G::row() * patch_positions; channel < channels && t < end; t += G::positions) {
    // Values behind a patch are needed only for the partner.
    Window<dtype, channels_last, G::channels, patch_reach, pair ? patch_reach : 0> x[signals];
    const int64_t read = pair || wants_sums ? length : 0;
    HYENA_UNROLL
    for (int s = 0; s < signals; ++s)
      x[s].load(patch_rows<dtype, channels_last>(a.x, at.b, channel, s * a.x_part), t, read, reach);
    PatchResult<dtype, channels_last, G::channels> result[signals];
    const PatchRows dy = patch_rows<inner, false>(a.dy, at.b, channel, 0);
    unrolled<G::channels>([&](auto index) {
      constexpr int c = decltype(index)::value;
      Window<inner, false, 1, 0, patch_reach> grad;
      grad.load({dy.data + c * dy.step, 0}, t, length, reach);
      float g[signals][around], dx[patch_positions];
      if constexpr (pair) {
        // The gradient of the other factor comes first: afterwards its values are no longer needed.
        float value[around];
        HYENA_UNROLL
        for (int s = 0; s < 2; ++s) {
          convolve_patch<around>(value, x[1 - s], c, taps + ((1 - s) * G::tile + own + c) * tap_floats, reach);
          HYENA_UNROLL
          for (int i = 0; i < around; ++i) g[s][i] = t + i < length ? grad.get(0, i) * value[i] : 0.0f;
        }
      } else {
        HYENA_UNROLL
        for (int i = 0; i < around; ++i) g[0][i] = grad.get(0, i);
      }
      HYENA_UNROLL
      for (int s = 0; s < signals; ++s) {
        differentiate(dx, sums[s][c], g[s], x[s], c, taps + (s * G::tile + own + c) * tap_floats, reach);
        result[s].template set<c>(dx);
      }
    });
    if (a.dx.data) {
      HYENA_UNROLL
      for (int s = 0; s < signals; ++s)
        result[s].store(patch_rows<dtype, channels_last>(a.dx, at.b, channel, s * a.dx_part), t, length);
    }
  }
  if (wants_sums) write_patch_sums<G, signals>(a, at, sums, taps + 2 * most_tile * tap_floats);
}

struct PatchedTranspose {
  Transpose a;
  int64_t channel_tiles, position_tiles;
};

// Turns rows of channels into rows of positions, or back.
template <class Form>
__global__ void __launch_bounds__(256) transpose_patches_kernel(const __grid_constant__ PatchedTranspose tiled) {
  constexpr Dtype dtype = Form::dtype;
  constexpr bool from_channels = Form::channels_last;
  using G = typename Form::Transposed;
  constexpr int from_lanes = from_channels ? G::channels : patch_positions;
  constexpr int from_rows = from_channels ? patch_positions : G::channels;
  const View &x = tiled.a.x, &y = tiled.a.y;
  const PatchPlace at = patch_place<G>(tiled.channel_tiles, tiled.position_tiles);
  const int64_t length = x.size[2], t = at.t * G::positions + G::row() * patch_positions;
  const int64_t channel = at.channel + G::group() * G::channels;
  if (channel >= x.size[1] || t >= length) return;
  const PatchRows source = patch_rows<dtype, from_channels>(x, at.b, channel, 0);
  const PatchRows target = patch_rows<dtype, !from_channels>(y, at.b, channel, 0);
  // The start of a row, and how many of its elements exist
  const auto row_at = [&](const PatchRows& rows, bool of_channels, int i) {
    return rows.data + (of_channels ? (t + i) * rows.step : i * rows.step + t * element_bytes<dtype>);
  };
  const auto exist = [&](bool of_channels, int i) {
    return of_channels ? (t + i < length ? int64_t(G::channels) : 0) : length - t;
  };
  Neighbours<dtype, from_lanes> from[from_rows];
  HYENA_UNROLL
  for (int i = 0; i < from_rows; ++i) from[i].load_first(row_at(source, from_channels, i), exist(from_channels, i));
  HYENA_UNROLL
  for (int i = 0; i < from_lanes; ++i) {
    Neighbours<dtype, from_rows> to;
    HYENA_UNROLL
    for (int j = 0; j < from_rows; j += 2) to.copy_two(j, from[j].bits(i), from[j + 1].bits(i));
    to.store_first(row_at(target, !from_channels, i), exist(!from_channels, i));
  }
}

bool rows_of_positions(const View& view, int64_t part) {
  return tile_view(view, part).access == Access::position_vectors;
}

bool rows_of_channels(const View& view, int64_t part, int64_t channels) {
  return tile_view(view, part).access == Access::channel_vectors && view.size[1] % channels == 0;
}

dim3 grid_of(int64_t blocks, int64_t parts = 1) {
  if (blocks > largest_grid || parts > largest_grid_y)
    throw std::invalid_argument("short_conv: too many patches for one launch");
  return {static_cast<unsigned>(blocks), static_cast<unsigned>(parts)};
}

// Calls f with the PatchForm for a dtype of x. With `wide`, y and dy are float32, else they are of the same dtype.
template <bool channels_last, bool pair, bool wide, class F>
void with_form(Dtype dtype, F&& f) {
  if (dtype == Dtype::f32)
    f(PatchForm<Dtype::f32, channels_last, pair>{});
  else if (dtype == Dtype::bf16)
    f(PatchForm<Dtype::bf16, channels_last, pair, wide ? Dtype::f32 : Dtype::bf16>{});
  else
    f(PatchForm<Dtype::f16, channels_last, pair, wide ? Dtype::f32 : Dtype::f16>{});
}

template <bool channels_last, bool wide>
void launch_forward(const ShortConvForward& args, Stream stream) {
  with_form<channels_last, false, wide>(args.x.dtype, [&](auto form) {
    using Form = decltype(form);
    using G = typename Form::Forward;
    const PatchedForward tiled = {args, ceil_div(args.x.size[1], G::tile), ceil_div(args.x.size[2], G::positions)};
    const dim3 grid = grid_of(args.x.size[0] * tiled.channel_tiles * tiled.position_tiles, args.parts);
    HYENA_LAUNCH(short_conv_patches_kernel<Form>, grid, G::threads, tap_bytes, stream, tiled);
  });
}

template <bool channels_last, bool pair, bool wide>
void launch_backward(const ShortConvBackward& args, Stream stream) {
  with_form<channels_last, pair, wide>(args.x.dtype, [&](auto form) {
    using Form = decltype(form);
    using G = typename Form::Backward;
    const int64_t patches = ceil_div(args.x.size[2], patch_positions);
    const PatchedBackward tiled = {args, ceil_div(args.x.size[1], G::tile),
                                   ceil_div(patches, args.spans) * patch_positions};
    const dim3 grid = grid_of(args.x.size[0] * tiled.channel_tiles * args.spans);
    constexpr int sums = Form::signals * G::channels * tap_floats * G::threads * static_cast<int>(sizeof(float));
    HYENA_LAUNCH(short_conv_patches_backward_kernel<Form>, grid, G::threads, tap_bytes + sums, stream, tiled);
  });
}

template <bool from_channels>
void launch_transpose(const Transpose& args, Stream stream) {
  with_form<from_channels, false, false>(args.x.dtype, [&](auto form) {
    using Form = decltype(form);
    using G = typename Form::Transposed;
    const PatchedTranspose tiled = {args, ceil_div(args.x.size[1], G::tile), ceil_div(args.x.size[2], G::positions)};
    const dim3 grid = grid_of(args.x.size[0] * tiled.channel_tiles * tiled.position_tiles);
    HYENA_LAUNCH(transpose_patches_kernel<Form>, grid, G::threads, 0, stream, tiled);
  });
}

}  // namespace

bool short_conv_forward_patches(const ShortConvForward& args, Stream stream) {
  const int64_t lanes = args.x.dtype == Dtype::f32 ? 4 : 8;
  const bool same = args.x.dtype == args.y.dtype, wide = args.y.dtype == Dtype::f32;
  if (args.weight.size[1] > patch_taps || !rows_of_positions(args.y, args.y_part)) return false;
  if (same && rows_of_positions(args.x, args.x_part))
    launch_forward<false, false>(args, stream);
  else if ((same || wide) && rows_of_channels(args.x, args.x_part, lanes))
    wide ? launch_forward<true, true>(args, stream) : launch_forward<true, false>(args, stream);
  else
    return false;
  return true;
}

bool short_conv_backward_patches(const ShortConvBackward& args, Stream stream) {
  const bool same = args.x.dtype == args.dy.dtype, wide = args.dy.dtype == Dtype::f32;
  if (args.weight.size[1] > patch_taps || !rows_of_positions(args.dy, 0)) return false;
  const auto every = [&](auto&& fits) {
    return fits(args.x, args.x_part) && (!args.dx || (fits(args.dx, args.dx_part) && args.dx.dtype == args.x.dtype));
  };
  // Pairs come only from projections, which are channel-last and have float32 gradients.
  if (same && !args.pair && every([](const View& view, int64_t part) { return rows_of_positions(view, part); })) {
    launch_backward<false, false, false>(args, stream);
  } else if ((wide || (same && !args.pair)) &&
             every([](const View& view, int64_t part) { return rows_of_channels(view, part, 4); })) {
    if (args.pair)
      launch_backward<true, true, true>(args, stream);
    else
      wide ? launch_backward<true, false, true>(args, stream) : launch_backward<true, false, false>(args, stream);
  } else {
    return false;
  }
  return true;
}

bool transpose_patches(const Transpose& args, Stream stream) {
  const int64_t lanes = args.x.dtype == Dtype::f32 ? 4 : 8;
  if (args.x.dtype != args.y.dtype) return false;
  if (rows_of_positions(args.x, 0) && rows_of_channels(args.y, 0, lanes))
    launch_transpose<false>(args, stream);
  else if (rows_of_channels(args.x, 0, lanes) && rows_of_positions(args.y, 0))
    launch_transpose<true>(args, stream);
  else
    return false;
  return true;
}

}  // namespace hyena
