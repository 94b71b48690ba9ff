#include "fftconv_skip.h"

#include "element.cuh"

namespace hyena {
namespace {

constexpr int threads = 256;
constexpr int each = 4;  // elements that a thread loads at a time, `threads` apart

template <class T>
HYENA_DEVICE void load(T* value, const Row& row, int first, int length) {
  if constexpr (sizeof(T) == 8)
    gather<each, false>(value, static_cast<const double*>(row.data), row.step, first, threads, length);
  else
    load_strided<each, false>(value, row, first, threads, length);
}

// The row at indices b, c from position `start` on
HYENA_DEVICE Row row_from(const View& view, int64_t b, int64_t c, int64_t start) {
  Row row = row_of(view, b, c);
  if (row.data) row.data = static_cast<const char*>(row.data) + start * row.step * size_of(row.dtype);
  return row;
}

// Loads T and sums float64. The product of two float32 numbers is exact there.
template <class T>
__global__ void __launch_bounds__(threads, 4)
    fftconv_skip_kernel(const __grid_constant__ FftconvSkip a, int64_t spans) {
  HYENA_DYNAMIC_SHARED(shared);
  double* buffer = reinterpret_cast<double*>(shared);
  const int64_t index = blockIdx.x / spans, span = blockIdx.x % spans, start = span * fftconv_span;
  const int64_t b = index / a.u.size[1], c = index % a.u.size[1], left = a.u.size[2] - start;
  const int length = left < fftconv_span ? static_cast<int>(left) : fftconv_span;
  const Row factors[] = {row_from(a.u, b, c, start), row_from(a.pre_gate, b, c, start),
                         row_from(a.post_gate, b, c, start)};
  const Row dy = row_from(a.dy, b, c, start);
  double sum = 0.0;
  HYENA_NO_UNROLL
  for (int first = threadIdx.x; first < length; first += threads * each) {
    T value[each];
    load(value, dy, first, length);
    double product[each];
    HYENA_UNROLL
    for (int j = 0; j < each; ++j) product[j] = value[j];
    HYENA_UNROLL
    for (int f = 0; f < 3; ++f) {
      if (!factors[f].data) continue;
      load(value, factors[f], first, length);
      HYENA_UNROLL
      for (int j = 0; j < each; ++j) product[j] *= value[j];
    }
    HYENA_UNROLL
    for (int j = 0; j < each; ++j) sum += product[j];
  }
  // The order of the sum is fixed: one half is added to the other.
  buffer[threadIdx.x] = sum;
  for (int half = threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < half) buffer[threadIdx.x] += buffer[threadIdx.x + half];
  }
  if (threadIdx.x == 0)
    static_cast<double*>(a.sums.data)[b * a.sums.stride[0] + c * a.sums.stride[1] + span * a.sums.stride[2]] =
        buffer[0];
}

}  // namespace

int64_t fftconv_skip_spans(int64_t length) { return ceil_div(length, fftconv_span); }

void fftconv_skip(const FftconvSkip& args, Stream stream) {
  const int64_t spans = fftconv_skip_spans(args.u.size[2]), blocks = args.u.size[0] * args.u.size[1] * spans;
  if (blocks > largest_grid) throw std::invalid_argument("fftconv: too many rows for one launch");
  constexpr int shared = threads * static_cast<int>(sizeof(double));
  const unsigned grid = static_cast<unsigned>(blocks);
  if (args.u.dtype == Dtype::f64)
    HYENA_LAUNCH(fftconv_skip_kernel<double>, grid, threads, shared, stream, args, spans);
  else
    HYENA_LAUNCH(fftconv_skip_kernel<float>, grid, threads, shared, stream, args, spans);
}

}  // namespace hyena
