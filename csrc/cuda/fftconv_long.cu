#include "fftconv_long.h"

#include "../common/complex.h"
#include "../common/roots.h"
#include "element.cuh"

namespace hyena {
namespace {

constexpr int threads = 256;
constexpr int each = 4;  // elements per thread, `threads` apart
constexpr int tile = threads * each;

// The tile of block x: which of the (B, D) rows it is part of, and its first element
struct Tile {
  int64_t b, c, first;
};

HYENA_DEVICE Tile tile_of_block(int64_t channels, int64_t tiles) {
  const int64_t row = blockIdx.x / tiles;
  return {row / channels, row % channels, blockIdx.x % tiles * tile + threadIdx.x};
}

template <class T>
HYENA_DEVICE T load_as(const Row& row, int64_t i) {
  if (row.dtype == Dtype::f64) return static_cast<T>(static_cast<const double*>(row.data)[i * row.step]);
  return static_cast<T>(load_element(row, i));
}

template <class T>
HYENA_DEVICE void store_from(const Row& row, int64_t i, T value) {
  if (row.dtype == Dtype::f64)
    static_cast<double*>(const_cast<void*>(row.data))[i * row.step] = static_cast<double>(value);
  else
    store_element(row, i, static_cast<float>(value));
}

// exp(2πi n / 4P)
template <class T>
HYENA_DEVICE Complex<T> weight(int64_t n, int64_t points) {
  return conj(unit_root(static_cast<T>(n) / (4 * static_cast<T>(points))));
}

template <class T>
HYENA_DEVICE Complex<T>* complex_row(const View& view, int64_t i, int64_t j) {
  return reinterpret_cast<Complex<T>*>(static_cast<T*>(view.data) + i * view.stride[0] + j * view.stride[1]);
}

template <class T>
__global__ void __launch_bounds__(threads)
    fftconv_weight_kernel(const __grid_constant__ FftconvWeight a, int64_t points, int64_t tiles) {
  const Tile at = tile_of_block(a.signal.size[1], tiles);
  const Row signal = row_of(a.signal, at.b, at.c), gate = row_of(a.gate, at.b, at.c);
  Complex<T>* rows = complex_row<T>(a.rows, at.b, at.c);
  const T skip = a.skip.data ? load_as<T>({a.skip.data, a.skip.stride[0], a.skip.dtype}, at.c) : T(0);
  const auto value = [&](int64_t i) {
    if (i < 0 || i >= a.signal.size[2]) return T(0);
    const T x = load_as<T>(signal, i) * (gate.data ? load_as<T>(gate, i) : T(1));
    return a.skip.data && i == a.tap ? x + skip : x;
  };
  HYENA_UNROLL
  for (int e = 0; e < each; ++e) {
    const int64_t n = at.first + e * threads;
    if (n >= points) break;
    const T re = value(n - a.shift), im = a.shift + a.signal.size[2] > points ? value(n - a.shift + points) : T(0);
    rows[n] = weight<T>(n, points) * Complex<T>{re, im};
  }
}

template <class T>
__global__ void __launch_bounds__(threads, 2)
    fftconv_product_kernel(const __grid_constant__ FftconvProduct a, int64_t points, int64_t tiles) {
  const Tile at = tile_of_block((a.filter.data ? a.filter : a.sum).size[0], tiles);
  const int64_t batch = (a.signal.data ? a.signal : a.grad).size[0];
  HYENA_UNROLL
  for (int e = 0; e < each; ++e) {
    const int64_t n = at.first + e * threads;
    if (n >= points) break;
    Complex<T> factor = {0, 0}, sum = {0, 0};
    if (a.filter.data) factor = complex_row<T>(a.filter, at.c, 0)[n];
    if (a.sum.data && a.accumulate) sum = complex_row<T>(a.sum, at.c, 0)[n];
    // The sum follows the order of the batch, so it is the same in every run.
    for (int64_t b = 0; b < batch; ++b) {
      Complex<T>* signal = complex_row<T>(a.signal, b, at.c) + n;
      Complex<T> x = {0, 0};
      if (a.sum.data || a.multiply_signal) x = *signal;
      if (a.multiply_signal) *signal = x * factor;
      if (!a.grad.data) continue;
      Complex<T>* grad = complex_row<T>(a.grad, b, at.c) + n;
      const Complex<T> g = *grad;
      if (a.sum.data) sum = sum + conj_times(x, g);
      if (a.turn_grad) *grad = conj_times(factor, g);
    }
    if (a.sum.data) complex_row<T>(a.sum, at.c, 0)[n] = sum;
  }
}

template <class T>
__global__ void __launch_bounds__(threads)
    fftconv_unweight_kernel(const __grid_constant__ FftconvUnweight a, int64_t points, int64_t tiles) {
  const Tile at = tile_of_block(a.y.size[1], tiles);
  const Complex<T>* rows = complex_row<T>(a.rows, at.b, at.c);
  const Row y = row_of(a.y, at.b, at.c), factor = row_of(a.factor, at.b, at.c);
  const Row y2 = row_of(a.y2, at.b, at.c), factor2 = row_of(a.factor2, at.b, at.c);
  const T scale = T(1) / static_cast<T>(points);
  HYENA_UNROLL
  for (int e = 0; e < each; ++e) {
    const int64_t t = at.first + e * threads;
    if (t >= a.y.size[2]) break;
    const bool wrapped = t + a.shift >= points;
    const int64_t n = wrapped ? t + a.shift - points : t + a.shift;
    const Complex<T> z = conj_times(weight<T>(n, points), rows[n]);
    const T value = (wrapped ? z.im : z.re) * scale;
    if (y.data) store_from<T>(y, t, factor.data ? value * load_as<T>(factor, t) : value);
    if (y2.data) store_from<T>(y2, t, factor2.data ? value * load_as<T>(factor2, t) : value);
  }
}

struct Grid {
  unsigned blocks;
  int64_t tiles;
};

Grid grid_for(int64_t rows, int64_t elements) {
  const int64_t tiles = ceil_div(elements, tile);
  if (rows * tiles > largest_grid) throw std::invalid_argument("fftconv: too many rows for one launch");
  return {static_cast<unsigned>(rows * tiles), tiles};
}

bool wide(const View& rows) { return rows.dtype == Dtype::f64; }

}  // namespace

void fftconv_weight(const FftconvWeight& args, Stream stream) {
  const int64_t points = args.rows.size[2] / 2;
  const Grid grid = grid_for(args.rows.size[0] * args.rows.size[1], points);
  if (wide(args.rows))
    HYENA_LAUNCH(fftconv_weight_kernel<double>, grid.blocks, threads, 0, stream, args, points, grid.tiles);
  else
    HYENA_LAUNCH(fftconv_weight_kernel<float>, grid.blocks, threads, 0, stream, args, points, grid.tiles);
}

void fftconv_product(const FftconvProduct& args, Stream stream) {
  const View& channels = args.filter ? args.filter : args.sum;
  const int64_t points = channels.size[1] / 2;
  const Grid grid = grid_for(channels.size[0], points);
  if (wide(channels))
    HYENA_LAUNCH(fftconv_product_kernel<double>, grid.blocks, threads, 0, stream, args, points, grid.tiles);
  else
    HYENA_LAUNCH(fftconv_product_kernel<float>, grid.blocks, threads, 0, stream, args, points, grid.tiles);
}

void fftconv_unweight(const FftconvUnweight& args, Stream stream) {
  const int64_t points = args.rows.size[2] / 2;
  const Grid grid = grid_for(args.rows.size[0] * args.rows.size[1], args.y.size[2]);
  if (wide(args.rows))
    HYENA_LAUNCH(fftconv_unweight_kernel<double>, grid.blocks, threads, 0, stream, args, points, grid.tiles);
  else
    HYENA_LAUNCH(fftconv_unweight_kernel<float>, grid.blocks, threads, 0, stream, args, points, grid.tiles);
}

}  // namespace hyena
