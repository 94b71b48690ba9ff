// The kernels of layer norms for this instruction set. A row is passed over several times, in the first-level cache.
#include "layer_norm.h"
#include "rows.h"
#include "scratch.h"

namespace hyena {
namespace {

// Rows whose gradients of the weight are added up before they are added to those in float64.
constexpr std::int64_t rows_of_sum = 64;

// Buffers of a thread, of n elements each and aligned.
template <class T>
struct Buffers {
  explicit Buffers(std::int64_t n, int count)
      : step((n + 15) / 16 * 16), data(static_cast<T*>(scratch(For::rows, count * step * sizeof(T)))) {}
  ~Buffers() { trim_scratch(For::rows); }
  T* operator[](int i) const { return data + i * step; }
  std::int64_t step;
  T* data;
};

// All of a tensor with one dimension, as a row
HYENA_INLINE Row vector(const View& v) { return {static_cast<char*>(v.data), v.dtype, v.stride[0]}; }

// The elements of a row in T: where they lie, or in `buffer` after a conversion.
template <class T>
HYENA_INLINE const T* values(const Row& r, T* buffer, std::int64_t n) {
  if (plain<T>(r)) return reinterpret_cast<const T*>(r.data);
  read<With::set>(buffer, r, 0, n);
  return buffer;
}

// Where to compute the elements of a contiguous row: at their place if it has the type T, else in `buffer`.
template <class T>
HYENA_INLINE T* place(const Row& r, T* buffer) {
  return plain<T>(r) ? reinterpret_cast<T*>(r.data) : buffer;
}

template <class T>
struct Moments {
  T mean, scale;  // scale = 1 / sqrt(variance + eps)
};

template <class T>
HYENA_INLINE Moments<T> moments(const T* row, std::int64_t n, double eps) {
  constexpr int W = Simd<T>::width;
  Vec<T> a{}, b{};
  std::int64_t i = 0;
  for (; i + 2 * W <= n; i += 2 * W) {
    a += load_unaligned(row + i);
    b += load_unaligned(row + i + W);
  }
  T sum = sum_of<T>(a + b);
  for (; i < n; ++i) sum += row[i];
  T mean = sum / static_cast<T>(n);
  // The sum of a row far from zero loses digits, and the deviations show how many.
  Vec<T> rest{}, square{}, other_rest{}, other_square{};
  for (i = 0; i + 2 * W <= n; i += 2 * W) {
    const Vec<T> u = load_unaligned(row + i) - mean, v = load_unaligned(row + i + W) - mean;
    rest += u;
    square += u * u;
    other_rest += v;
    other_square += v * v;
  }
  T deviation = sum_of<T>(rest + other_rest), squares = sum_of<T>(square + other_square);
  for (; i < n; ++i) {
    const T u = row[i] - mean;
    deviation += u;
    squares += u * u;
  }
  deviation /= static_cast<T>(n);
  const T variance = squares / static_cast<T>(n) - deviation * deviation;
  return {mean + deviation, T(1) / std::sqrt(variance + static_cast<T>(eps))};
}

template <class T>
void layer_norm_forward(const LayerNormForward& args, std::int64_t first, std::int64_t last) {
  constexpr int W = Simd<T>::width;
  const std::int64_t n = args.residual.size[1];
  const Buffers<T> buffers(n, 5);
  const T* weight = values(vector(args.weight), buffers[0], n);
  const T* bias = values(vector(args.bias), buffers[1], n);
  for (std::int64_t at = first; at < last; ++at) {
    const T* s = values(row(args.residual, at), buffers[2], n);
    if (args.x) {
      const Row total = row(args.total, at);
      const T* x = values(row(args.x, at), buffers[3], n);
      T* sum = place(total, buffers[2]);
      std::int64_t i = 0;
      for (; i + W <= n; i += W) store_unaligned(sum + i, load_unaligned(s + i) + load_unaligned(x + i));
      for (; i < n; ++i) sum[i] = s[i] + x[i];
      if (!plain<T>(total)) {
        // The norm is that of the sum as it is returned.
        write(total, 0, sum, n);
        read<With::set>(sum, total, 0, n);
      }
      s = sum;
    }
    const Moments<T> of = moments(s, n, args.eps);
    const Row result = row(args.y, at);
    T* y = place(result, buffers[4]);
    std::int64_t i = 0;
    for (; i + W <= n; i += W)
      store_unaligned(y + i, (load_unaligned(s + i) - of.mean) * of.scale * load_unaligned(weight + i) +
                                 load_unaligned(bias + i));
    for (; i < n; ++i) y[i] = (s[i] - of.mean) * of.scale * weight[i] + bias[i];
    if (!plain<T>(result)) write(result, 0, y, n);
  }
}

template <class T>
void layer_norm_backward(const LayerNormBackward& args, std::int64_t first, std::int64_t last) {
  constexpr int W = Simd<T>::width;
  const std::int64_t rows = args.residual.size[0], n = args.residual.size[1];
  const Buffers<T> buffers(n, 7);
  const T* weight = values(vector(args.weight), buffers[0], n);
  T *dweight = buffers[1], *dbias = buffers[2];
  for (std::int64_t chunk = first; chunk < last; ++chunk) {
    double* sums = args.sums ? static_cast<double*>(args.sums.data) + chunk * 2 * n : nullptr;
    if (sums) std::memset(sums, 0, 2 * n * sizeof(double));
    const std::int64_t end = (chunk + 1) * args.chunk < rows ? (chunk + 1) * args.chunk : rows;
    for (std::int64_t start = chunk * args.chunk; start < end; start += rows_of_sum) {
      std::memset(dweight, 0, n * sizeof(T));
      std::memset(dbias, 0, n * sizeof(T));
      const std::int64_t stop = start + rows_of_sum < end ? start + rows_of_sum : end;
      for (std::int64_t at = start; at < stop; ++at) {
        const T* s = values(row(args.residual, at), buffers[3], n);
        const T* g = values(row(args.dy, at), buffers[4], n);
        const Moments<T> of = moments(s, n, args.eps);
        Vec<T> slopes{}, means{};
        T slope = 0, mean = 0;
        std::int64_t i = 0;
        for (; i + W <= n; i += W) {
          const Vec<T> grad = load_unaligned(g + i), normalised = (load_unaligned(s + i) - of.mean) * of.scale;
          const Vec<T> scaled = grad * load_unaligned(weight + i);
          store(dweight + i, load(dweight + i) + grad * normalised);
          store(dbias + i, load(dbias + i) + grad);
          slopes += scaled * normalised;
          means += scaled;
        }
        for (; i < n; ++i) {
          const T normalised = (s[i] - of.mean) * of.scale;
          dweight[i] += g[i] * normalised;
          dbias[i] += g[i];
          slope += g[i] * weight[i] * normalised;
          mean += g[i] * weight[i];
        }
        if (!args.dresidual && !args.copy) continue;
        slope = (slope + sum_of<T>(slopes)) / static_cast<T>(n);
        mean = (mean + sum_of<T>(means)) / static_cast<T>(n);
        const T* more = args.dtotal ? values(row(args.dtotal, at), buffers[5], n) : nullptr;
        T* out = args.dresidual ? place(row(args.dresidual, at), buffers[6]) : buffers[6];
        for (i = 0; i + W <= n; i += W) {
          const Vec<T> normalised = (load_unaligned(s + i) - of.mean) * of.scale;
          Vec<T> grad = (load_unaligned(g + i) * load_unaligned(weight + i) - mean - normalised * slope) * of.scale;
          if (more) grad += load_unaligned(more + i);
          store_unaligned(out + i, grad);
        }
        for (; i < n; ++i) {
          const T normalised = (s[i] - of.mean) * of.scale;
          out[i] = (g[i] * weight[i] - mean - normalised * slope) * of.scale + (more ? more[i] : T(0));
        }
        if (args.dresidual && out == buffers[6]) write(row(args.dresidual, at), 0, out, n);
        if (args.copy) write(row(args.copy, at), 0, out, n);
      }
      if (!sums) continue;
      for (std::int64_t i = 0; i < n; ++i) {
        sums[i] += dweight[i];
        sums[n + i] += dbias[i];
      }
    }
  }
}

void forward(const LayerNormForward& args, std::int64_t first, std::int64_t last) {
  args.wide ? layer_norm_forward<double>(args, first, last) : layer_norm_forward<float>(args, first, last);
}

void backward(const LayerNormBackward& args, std::int64_t first, std::int64_t last) {
  args.wide ? layer_norm_backward<double>(args, first, last) : layer_norm_backward<float>(args, first, last);
}

// Columns of sums that are added up at a time.
constexpr std::int64_t columns_of_sum = 64;

void add_chunks(const LayerNormBackward& args, std::int64_t first, std::int64_t last) {
  const std::int64_t chunks = args.sums.size[0], n = args.weight.size[0];
  const View* const results[] = {&args.dweight, &args.dbias};
  for (int which = 0; which < 2; ++which) {
    if (!*results[which]) continue;
    const Row result = vector(*results[which]);
    for (std::int64_t start = first; start < last; start += columns_of_sum) {
      const std::int64_t count = last - start < columns_of_sum ? last - start : columns_of_sum;
      double total[columns_of_sum] = {};
      for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
        const double* sums = static_cast<const double*>(args.sums.data) + (2 * chunk + which) * n + start;
        for (std::int64_t i = 0; i < count; ++i) total[i] += sums[i];
      }
      write(result, start, total, count);
    }
  }
}

}  // namespace

const LayerNormKernels HYENA_KERNELS(layer_norm) = {forward, backward, add_chunks};

}  // namespace hyena
