#include "short_conv.h"

#include "short_conv_patches.h"
#include "tile.cuh"

namespace hyena {
namespace {

constexpr int lanes_of_channel = tile_threads / tile_channels;  // threads that share a channel of a tile
constexpr int each = tile_positions / lanes_of_channel;         // neighbouring positions of a thread
constexpr int reach = most_taps - 1;

constexpr int forward_width = tile_margin + tile_positions;
constexpr int backward_width = 2 * tile_margin + tile_positions;

struct Taps {
  float weight[most_taps];  // for lags 0, 1, …
  float bias;
  int count;
};

HYENA_DEVICE Taps load_taps(const View& weight, const View& bias, int64_t row, bool exists) {
  Taps taps;
  taps.count = static_cast<int>(weight.size[1]);
  HYENA_UNROLL
  for (int lag = 0; lag < most_taps; ++lag)
    taps.weight[lag] =
        exists && lag < taps.count ? load_element(row_of(weight, row), taps.count - 1 - lag) : 0.0f;
  taps.bias = exists && bias.data ? load_element({bias.data, bias.stride[0], bias.dtype}, row) : 0.0f;
  return taps;
}

// y[i] for `count` positions, where x points at the first one. x has `reach` positions before it.
template <int count>
HYENA_DEVICE void convolve(float* y, const float* x, const Taps& taps) {
  float window[count + reach];
  HYENA_UNROLL
  for (int i = 0; i < count + reach; ++i) window[i] = x[i - reach];
  HYENA_UNROLL
  for (int i = 0; i < count; ++i) y[i] = taps.bias;
  HYENA_UNROLL
  for (int lag = 0; lag < most_taps; ++lag) {
    // A weight of zero would not do: zero times infinity or NaN is NaN.
    if (lag >= taps.count) continue;
    HYENA_UNROLL
    for (int i = 0; i < count; ++i) y[i] += taps.weight[lag] * window[i + reach - lag];
  }
}

struct Place {
  int64_t b, channel, t;  // batch entry, first channel, and the number of the tile or span of positions
};

HYENA_DEVICE Place place_of_block(int64_t channel_tiles, int64_t tiles_of_row) {
  const int64_t block = blockIdx.x, rest = block / channel_tiles;
  return {rest / tiles_of_row, block % channel_tiles * tile_channels, rest % tiles_of_row};
}

struct TiledForward {
  ShortConvForward a;
  TileView x, y;
  int64_t channel_tiles, position_tiles;
};

__global__ void __launch_bounds__(tile_threads, 4)
    short_conv_forward_kernel(const __grid_constant__ TiledForward tiled) {
  HYENA_DYNAMIC_SHARED(shared);
  constexpr int stride = tile_stride<forward_width>;
  const ShortConvForward& a = tiled.a;
  const Place at = place_of_block(tiled.channel_tiles, tiled.position_tiles);
  const int64_t first = at.t * tile_positions, part = blockIdx.y;
  const bool pair = a.pair && part == a.parts - 1;
  float* tile = reinterpret_cast<float*>(shared);
  float* other = tile + tile_floats<forward_width>;
  load_tile<forward_width>(tile, tile_at(tiled.x, at.b, at.channel, part * a.x_part), first - tile_margin);
  if (pair) {
    const TileAt second = tile_at(tiled.x, at.b, at.channel, (part + 1) * a.x_part);
    load_tile<forward_width>(other, second, first - tile_margin);
  }
  __syncthreads();

  const int channel = threadIdx.x / lanes_of_channel;
  const int place = channel * stride + tile_margin + threadIdx.x % lanes_of_channel * each;
  const int64_t row = part * a.row_part + at.channel + channel;
  const bool exists = at.channel + channel < a.x.size[1];
  float y[each];
  convolve<each>(y, tile + place, load_taps(a.weight, a.bias, row, exists));
  if (pair) {
    float factor[each];
    convolve<each>(factor, other + place, load_taps(a.weight, a.bias, row + a.row_part, exists));
    HYENA_UNROLL
    for (int i = 0; i < each; ++i) y[i] *= factor[i];
  }
  __syncthreads();
  HYENA_UNROLL
  for (int i = 0; i < each; ++i) tile[place + i] = y[i];
  __syncthreads();
  store_tile<forward_width>(tile, tile_at(tiled.y, at.b, at.channel, part * a.y_part), first, tile_margin);
}

struct TiledBackward {
  ShortConvBackward a;
  TileView x, dy, dx;
  int64_t channel_tiles, position_tiles, tiles_of_span;
};

// A thread's sums over its span: gradients of the taps, by lag, and of the bias
struct Sums {
  float weight[most_taps], bias;
};

HYENA_DEVICE void add_products(Sums& sums, const float* grad, const float* x) {
  float window[each + reach];
  HYENA_UNROLL
  for (int i = 0; i < each + reach; ++i) window[i] = x[i - reach];
  HYENA_UNROLL
  for (int i = 0; i < each; ++i) {
    sums.bias += grad[i];
    HYENA_UNROLL
    for (int lag = 0; lag < most_taps; ++lag) sums.weight[lag] += grad[i] * window[i + reach - lag];
  }
}

// dx[t] = sum over lags of weight[lag] grad[t + lag]
HYENA_DEVICE void correlate(float* dx, const float* grad, const Taps& taps) {
  float window[each + reach];
  HYENA_UNROLL
  for (int i = 0; i < each + reach; ++i) window[i] = grad[i];
  HYENA_UNROLL
  for (int i = 0; i < each; ++i) dx[i] = 0.0f;
  HYENA_UNROLL
  for (int lag = 0; lag < most_taps; ++lag) {
    if (lag >= taps.count) continue;
    HYENA_UNROLL
    for (int i = 0; i < each; ++i) dx[i] += taps.weight[lag] * window[i + lag];
  }
}

// Adds the sums of the threads that share a channel, in the order of the threads. The first thread writes the result.
HYENA_DEVICE void write_sums(const ShortConvBackward& a, const Place& at, int part, const Sums& sums, float* buffer) {
  const int taps = static_cast<int>(a.weight.size[1]), channel = threadIdx.x / lanes_of_channel;
  const int lane = threadIdx.x % lanes_of_channel;
  const int64_t span = at.b * a.spans + at.t;
  HYENA_UNROLL
  for (int i = 0; i <= most_taps; ++i) {
    if (i > taps) break;
    __syncthreads();
    float value = sums.bias;
    HYENA_UNROLL
    for (int lag = 0; lag < most_taps; ++lag) value = i == taps - 1 - lag ? sums.weight[lag] : value;
    buffer[threadIdx.x] = value;
    __syncthreads();
    if (lane == 0 && at.channel + channel < a.x.size[1]) {
      float total = 0.0f;
      for (int k = 0; k < lanes_of_channel; ++k) total += buffer[threadIdx.x + k];
      const Row row = row_of(a.sums, span, part * (taps + 1) + i);
      store_element(row, at.channel + channel, total);
    }
  }
}

// Tiles have a margin on both sides. dx at a position needs gradients of later positions. In a pair these gradients
// need the partner's values there, which depend on earlier inputs.
__global__ void __launch_bounds__(tile_threads, 2)
    short_conv_backward_kernel(const __grid_constant__ TiledBackward tiled) {
  HYENA_DYNAMIC_SHARED(shared);
  constexpr int stride = tile_stride<backward_width>, floats = tile_floats<backward_width>;
  // Positions of a thread, including its part of the margin behind the tile
  constexpr int wide = (tile_positions + tile_margin) / lanes_of_channel;
  const ShortConvBackward& a = tiled.a;
  const Place at = place_of_block(tiled.channel_tiles, a.spans);
  float *grad = reinterpret_cast<float*>(shared), *x = grad + floats, *grad2 = x + floats, *x2 = grad2 + floats;
  const int channel = threadIdx.x / lanes_of_channel, lane = threadIdx.x % lanes_of_channel;
  const int place = channel * stride + tile_margin + lane * each;
  const bool exists = at.channel + channel < a.x.size[1];
  const Taps taps = load_taps(a.weight, a.bias, at.channel + channel, exists);
  const Taps taps2 = load_taps(a.weight, a.bias, at.channel + channel + a.row_part, exists && a.pair);
  const bool wants_sums = a.sums.data;
  Sums sums = {}, sums2 = {};

  const int64_t begin = at.t * tiled.tiles_of_span;
  const int64_t stop = begin + tiled.tiles_of_span;
  const int64_t end = stop < tiled.position_tiles ? stop : tiled.position_tiles;
  HYENA_NO_UNROLL
  for (int64_t t = begin; t < end; ++t) {
    const int64_t first = t * tile_positions;
    load_tile<backward_width>(grad, tile_at(tiled.dy, at.b, at.channel, 0), first - tile_margin);
    if (wants_sums || a.pair) load_tile<backward_width>(x, tile_at(tiled.x, at.b, at.channel, 0), first - tile_margin);
    if (a.pair) load_tile<backward_width>(x2, tile_at(tiled.x, at.b, at.channel, a.x_part), first - tile_margin);
    __syncthreads();
    if (a.pair) {
      // Each thread reads and writes gradients of its own positions.
      const int from = channel * stride + tile_margin + lane * wide;
      float value[wide], value2[wide];
      convolve<wide>(value, x + from, taps);
      convolve<wide>(value2, x2 + from, taps2);
      HYENA_UNROLL
      for (int i = 0; i < wide; ++i) {
        const float g = grad[from + i];
        grad[from + i] = g * value2[i];
        grad2[from + i] = g * value[i];
      }
      __syncthreads();
    }
    if (wants_sums) {
      add_products(sums, grad + place, x + place);
      if (a.pair) add_products(sums2, grad2 + place, x2 + place);
    }
    if (a.dx.data) {
      float dx[each], dx2[each];
      correlate(dx, grad + place, taps);
      if (a.pair) correlate(dx2, grad2 + place, taps2);
      __syncthreads();
      HYENA_UNROLL
      for (int i = 0; i < each; ++i) {
        grad[place + i] = dx[i];
        if (a.pair) grad2[place + i] = dx2[i];
      }
      __syncthreads();
      store_tile<backward_width>(grad, tile_at(tiled.dx, at.b, at.channel, 0), first, tile_margin);
      if (a.pair) store_tile<backward_width>(grad2, tile_at(tiled.dx, at.b, at.channel, a.dx_part), first, tile_margin);
    }
    __syncthreads();
  }
  if (wants_sums) {
    write_sums(a, at, 0, sums, grad);
    if (a.pair) write_sums(a, at, 1, sums2, grad);
  }
}

struct TiledTranspose {
  TileView x, y;
  int64_t channel_tiles, position_tiles;
};

__global__ void __launch_bounds__(tile_threads) transpose_kernel(const __grid_constant__ TiledTranspose tiled) {
  HYENA_DYNAMIC_SHARED(shared);
  float* tile = reinterpret_cast<float*>(shared);
  const Place at = place_of_block(tiled.channel_tiles, tiled.position_tiles);
  load_tile<tile_positions>(tile, tile_at(tiled.x, at.b, at.channel, 0), at.t * tile_positions);
  __syncthreads();
  store_tile<tile_positions>(tile, tile_at(tiled.y, at.b, at.channel, 0), at.t * tile_positions, 0);
}

dim3 grid_for(int64_t blocks, int64_t parts = 1) {
  if (blocks > largest_grid || parts > largest_grid_y)
    throw std::invalid_argument("short_conv: too many tiles for one launch");
  return {static_cast<unsigned>(blocks), static_cast<unsigned>(parts)};
}

int64_t channel_tiles(const View& x) { return ceil_div(x.size[1], tile_channels); }

int64_t position_tiles(const View& x) { return ceil_div(x.size[2], tile_positions); }

}  // namespace

void short_conv_forward(const ShortConvForward& args, Stream stream) {
  if (short_conv_forward_patches(args, stream)) return;
  const TiledForward tiled = {args, tile_view(args.x, args.x_part), tile_view(args.y, args.y_part),
                              channel_tiles(args.x), position_tiles(args.x)};
  const dim3 grid = grid_for(args.x.size[0] * tiled.channel_tiles * tiled.position_tiles, args.parts);
  const int shared = (args.pair ? 2 : 1) * tile_floats<forward_width> * static_cast<int>(sizeof(float));
  HYENA_LAUNCH(short_conv_forward_kernel, grid, tile_threads, shared, stream, tiled);
}

void short_conv_backward(const ShortConvBackward& args, Stream stream) {
  if (short_conv_backward_patches(args, stream)) return;
  const int64_t tiles = position_tiles(args.x);
  const TiledBackward tiled = {args,
                               tile_view(args.x, args.x_part),
                               tile_view(args.dy),
                               tile_view(args.dx, args.dx_part),
                               channel_tiles(args.x),
                               tiles,
                               ceil_div(tiles, args.spans)};
  const dim3 grid = grid_for(args.x.size[0] * tiled.channel_tiles * args.spans);
  const int shared = (args.pair ? 4 : 2) * tile_floats<backward_width> * static_cast<int>(sizeof(float));
  HYENA_LAUNCH(short_conv_backward_kernel, grid, tile_threads, shared, stream, tiled);
}

void transpose(const Transpose& args, Stream stream) {
  if (transpose_patches(args, stream)) return;
  const TiledTranspose tiled = {tile_view(args.x), tile_view(args.y), channel_tiles(args.x), position_tiles(args.x)};
  const dim3 grid = grid_for(args.x.size[0] * tiled.channel_tiles * tiled.position_tiles);
  HYENA_LAUNCH(transpose_kernel, grid, tile_threads, tile_floats<tile_positions> * static_cast<int>(sizeof(float)),
               stream, tiled);
}

}  // namespace hyena
