#include "implicit_filter.h"

#include "../common/sine.h"
#include "element.cuh"

namespace hyena {
namespace {

// A block computes 64 positions. In a product of 64 rows, a thread has 4 rows at two runs of 4 positions.
constexpr int positions = 64, product_rows = 64, threads = 128;
constexpr int rows_each = 4, positions_each = 8, lanes = positions / positions_each;
static_assert(threads * rows_each * positions_each == positions * product_rows, "a product is one round of the block");

HYENA_DEVICE float* vector_of(const View& view) { return static_cast<float*>(view.data); }

// The position of a thread's i-th value. With two runs of four, neighbouring threads read neighbouring vectors.
HYENA_DEVICE int position_of(int i) { return i % 4 + threadIdx.x % lanes * 4 + i / 4 * (positions / 2); }

HYENA_DEVICE int row_of_thread() { return threadIdx.x / lanes * rows_each; }

// weights[j][r] = source[j, first + r], and zero from `columns` on.
HYENA_DEVICE void load_weights(float* weights, const float* source, int64_t step, int count, int64_t first,
                               int64_t columns) {
  for (int i = threadIdx.x; i < count * product_rows; i += threads) {
    const int j = i / product_rows, r = i % product_rows;
    weights[i] = first + r < columns ? source[j * step + first + r] : 0.0f;
  }
}

// sum[r][i] = sum over j < count of weights[j][row + r] x[j][position i]
HYENA_DEVICE void product(float (&sum)[rows_each][positions_each], const float* weights, const float* x, int count) {
  const float4* w = reinterpret_cast<const float4*>(weights + row_of_thread());
  const float4* low = reinterpret_cast<const float4*>(x + position_of(0));
  HYENA_UNROLL
  for (int r = 0; r < rows_each; ++r) {
    HYENA_UNROLL
    for (int i = 0; i < positions_each; ++i) sum[r][i] = 0.0f;
  }
#if defined(__CUDACC__)
#pragma unroll 4
#endif
  for (int j = 0; j < count; ++j) {
    const float4 a = w[j * (product_rows / 4)];
    const float4 b = low[j * (positions / 4)], c = low[j * (positions / 4) + positions / 8];
    const float factor[rows_each] = {a.x, a.y, a.z, a.w};
    const float value[positions_each] = {b.x, b.y, b.z, b.w, c.x, c.y, c.z, c.w};
    HYENA_UNROLL
    for (int r = 0; r < rows_each; ++r) {
      HYENA_UNROLL
      for (int i = 0; i < positions_each; ++i) sum[r][i] += factor[r] * value[i];
    }
  }
}

// y = sin(freq (w x + b)) for all `width` rows. y and x are (rows, positions) in shared memory.
HYENA_DEVICE void layer(float* y, float* weights, const float* x, const float* w, int count, const float* bias,
                        const float* freq, int width) {
  for (int first = 0; first < width; first += product_rows) {
    load_weights(weights, w, width, count, first, width);
    __syncthreads();
    float sum[rows_each][positions_each];
    product(sum, weights, x, count);
    HYENA_UNROLL
    for (int r = 0; r < rows_each; ++r) {
      const int row = first + row_of_thread() + r;
      if (row >= width) continue;
      HYENA_UNROLL
      for (int i = 0; i < positions_each; ++i)
        y[row * positions + position_of(i)] = sine(freq[row] * (sum[r][i] + bias[row]));
    }
    __syncthreads();
  }
}

__global__ void __launch_bounds__(threads)
    filter_forward_kernel(const __grid_constant__ FilterForward a, int height) {
  HYENA_DYNAMIC_SHARED(shared);
  float *x = reinterpret_cast<float*>(shared), *y = x + height * positions, *weights = y + height * positions;
  const int64_t length = a.z.size[0], first = static_cast<int64_t>(blockIdx.x) * positions;
  const int features = static_cast<int>(a.z.size[1]), width = static_cast<int>(a.freq.size[0]);
  for (int i = threadIdx.x; i < features * positions; i += threads) {
    const int64_t n = first + i % positions;
    x[i] = n < length ? vector_of(a.z)[n * a.z.stride[0] + i / positions * a.z.stride[1]] : 0.0f;
  }
  layer(y, weights, x, vector_of(a.w_in), features, vector_of(a.b_in), vector_of(a.freq), width);
  for (int64_t m = 0; m < a.w_hidden.size[0]; ++m) {
    float* swapped = x;
    x = y;
    y = swapped;
    layer(y, weights, x, vector_of(a.w_hidden) + m * width * width, width, vector_of(a.b_hidden) + m * width,
          vector_of(a.freq), width);
  }

  const int64_t channels = a.k.size[0];
  for (int64_t c = 0; c < channels; c += product_rows) {
    load_weights(weights, vector_of(a.w_out), channels, width, c, channels);
    __syncthreads();
    float sum[rows_each][positions_each];
    product(sum, weights, y, width);
    HYENA_UNROLL
    for (int r = 0; r < rows_each; ++r) {
      const int64_t channel = c + row_of_thread() + r;
      if (channel >= channels) continue;
      const float rate = a.deltas.data ? fabsf(vector_of(a.deltas)[channel * a.deltas.stride[0]]) : 0.0f;
      HYENA_UNROLL
      for (int i = 0; i < positions_each; ++i) {
        const int64_t n = first + position_of(i);
        if (n >= length) continue;
        float value = sum[r][i];
        if (a.t.data) value *= expf(-vector_of(a.t)[n * a.t.stride[0]] * rate) + a.shift;
        vector_of(a.k)[channel * a.k.stride[0] + n] = value;
      }
    }
    __syncthreads();
  }
}

constexpr int row_threads = 256, row_each = 8, row_tile = row_threads * row_each;

__global__ void __launch_bounds__(row_threads) filter_sine_kernel(const __grid_constant__ FilterSine a) {
  const int64_t row = blockIdx.y, count = a.linear.size[1];
  const float freq = vector_of(a.freq)[row * a.freq.stride[0]];
  const float* linear = vector_of(a.linear) + row * a.linear.stride[0];
  float* y = vector_of(a.sine) + row * a.sine.stride[0];
  for (int e = 0; e < row_each; ++e) {
    const int64_t n = static_cast<int64_t>(blockIdx.x) * row_tile + e * row_threads + threadIdx.x;
    if (n < count) y[n] = sine(freq * linear[n]);
  }
}

__global__ void __launch_bounds__(row_threads)
    filter_sine_backward_kernel(const __grid_constant__ FilterSineBackward a) {
  HYENA_DYNAMIC_SHARED(shared);
  float* buffer = reinterpret_cast<float*>(shared);
  const int64_t row = blockIdx.y, count = a.linear.size[1];
  const float freq = vector_of(a.freq)[row * a.freq.stride[0]];
  const float* linear = vector_of(a.linear) + row * a.linear.stride[0];
  float* grad = vector_of(a.grad) + row * a.grad.stride[0];
  float sum = 0.0f;
  for (int e = 0; e < row_each; ++e) {
    const int64_t n = static_cast<int64_t>(blockIdx.x) * row_tile + e * row_threads + threadIdx.x;
    if (n >= count) break;
    const float argument_grad = grad[n] * cosine(freq * linear[n]);
    sum += argument_grad * linear[n];
    grad[n] = argument_grad * freq;
  }
  // The order of the sum is fixed: one half is added to the other.
  buffer[threadIdx.x] = sum;
  for (int half = row_threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < half) buffer[threadIdx.x] += buffer[threadIdx.x + half];
  }
  if (threadIdx.x == 0) vector_of(a.sums)[row * a.sums.stride[0] + blockIdx.x] = buffer[0];
}

__global__ void __launch_bounds__(row_threads) filter_window_kernel(const __grid_constant__ FilterWindow a) {
  const int64_t row = blockIdx.y, count = a.dk.size[1];
  const float rate = fabsf(vector_of(a.deltas)[row * a.deltas.stride[0]]);
  for (int e = 0; e < row_each; ++e) {
    const int64_t n = static_cast<int64_t>(blockIdx.x) * row_tile + e * row_threads + threadIdx.x;
    if (n >= count) break;
    const float grad = vector_of(a.dk)[row * a.dk.stride[0] + n * a.dk.stride[1]];
    const float decay = expf(-vector_of(a.t)[n * a.t.stride[0]] * rate);
    vector_of(a.dh)[row * a.dh.stride[0] + n] = grad * (decay + a.shift);
    if (a.decayed.data) vector_of(a.decayed)[row * a.decayed.stride[0] + n] = grad * decay;
  }
}

dim3 row_grid(const View& rows) {
  const int64_t blocks = filter_blocks(rows.size[1]);
  if (blocks > largest_grid || rows.size[0] > largest_grid_y)
    throw std::invalid_argument("implicit_filter: too many channels or positions for one launch");
  return {static_cast<unsigned>(blocks), static_cast<unsigned>(rows.size[0])};
}

}  // namespace

int64_t filter_blocks(int64_t count) { return ceil_div(count, row_tile); }

void filter_forward(const FilterForward& args, Stream stream) {
  const int64_t blocks = ceil_div(args.z.size[0], positions);
  const int64_t largest = args.z.size[1] > args.freq.size[0] ? args.z.size[1] : args.freq.size[0];
  if (largest > widest_network || blocks > largest_grid)
    throw std::invalid_argument("implicit_filter: too wide a network or too many positions");
  const int height = static_cast<int>(ceil_div(largest, product_rows)) * product_rows;
  const int shared = 3 * height * positions * static_cast<int>(sizeof(float));
  HYENA_LAUNCH(filter_forward_kernel, static_cast<unsigned>(blocks), threads, shared, stream, args, height);
}

void filter_sine(const FilterSine& args, Stream stream) {
  HYENA_LAUNCH(filter_sine_kernel, row_grid(args.linear), row_threads, 0, stream, args);
}

void filter_sine_backward(const FilterSineBackward& args, Stream stream) {
  HYENA_LAUNCH(filter_sine_backward_kernel, row_grid(args.linear), row_threads,
               row_threads * static_cast<int>(sizeof(float)), stream, args);
}

void filter_window(const FilterWindow& args, Stream stream) {
  HYENA_LAUNCH(filter_window_kernel, row_grid(args.dk), row_threads, 0, stream, args);
}

}  // namespace hyena
