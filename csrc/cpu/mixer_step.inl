// A step of the mixer for this instruction set. What a channel reads of a state is spread over memory, so the kernel
// gathers a few channels at a time into vectors of channels. Only within a window are lanes positions.
#include "mixer_step.h"
#include "rows.h"
#include "taps.h"

namespace hyena {
namespace {

// Elements (a, b, c), (a, b + 1, c), … of a tensor, as a row
HYENA_INLINE Row channels_at(const View& v, std::int64_t a, std::int64_t b, std::int64_t c) {
  const std::int64_t at = a * v.stride[0] + b * v.stride[1] + c * v.stride[2];
  return {static_cast<char*>(v.data) + at * bytes_of(v.dtype), v.dtype, v.stride[1]};
}

// Elements (a, b), (a + 1, b), … of a tensor with two dimensions, or a, a + 1, … of one with one, as a row
HYENA_INLINE Row column(const View& v, std::int64_t a, std::int64_t b) {
  const std::int64_t at = a * v.stride[0] + b * v.stride[1];
  return {static_cast<char*>(v.data) + at * bytes_of(v.dtype), v.dtype, v.stride[0]};
}

template <class T>
HYENA_INLINE void multiply(T* __restrict out, const T* __restrict factor, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) out[i] *= factor[i];
}

// out = short convolution of channels c … c + n - 1 of the (N+1) d, whose state is moved on.
template <class T>
void project(T* __restrict out, const MixerStep& args, std::int64_t b, std::int64_t c, std::int64_t n) {
  const std::int64_t taps = args.weight.size[1];
  alignas(64) T history[max_taps][step_channels], weight[step_channels];
  std::memset(out, 0, n * sizeof(T));
  if (args.bias) read<With::set>(out, column(args.bias, c, 0), 0, n);
  for (std::int64_t k = 0; k < taps; ++k) {
    T* __restrict const values = history[k];
    read<With::set>(values, k + 1 < taps ? channels_at(args.state, b, c, k) : channels_at(args.x, b, c, 0), 0, n);
    read<With::set>(weight, column(args.weight, c, k), 0, n);
    for (std::int64_t i = 0; i < n; ++i) out[i] += values[i] * weight[i];
  }
  for (std::int64_t k = 0; k + 1 < taps; ++k) write(channels_at(args.state, b, c, k), 0, history[k + 1], n);
}

// Sum of signal[j] * taps[n - 1 - j] for j in 0 … n-1
template <class T>
HYENA_INLINE T past(const T* signal, const T* taps, std::int64_t n) {
  constexpr int W = Simd<T>::width;
  if (n < W) {
    T sum = 0;
    for (std::int64_t j = 0; j < n; ++j) sum += signal[j] * taps[n - 1 - j];
    return sum;
  }
  Vec<T> sum{};
  std::int64_t j = 0;
  for (; j + W <= n; j += W) sum += load_unaligned(signal + j) * reversed<T>(load_unaligned(taps + n - W - j));
  if (j < n) {
    // The last vector, of which the first lanes have been added already
    typename Simd<T>::Index lane;
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) lane[i] = i;
    const Vec<T> last = load_unaligned(signal + n - W) * reversed<T>(load_unaligned(taps));
    sum += lane >= static_cast<int>(W - (n - j)) ? last : Vec<T>{};
  }
  return sum_of<T>(sum);
}

template <class T>
HYENA_INLINE T past(const T* signal, std::int64_t signal_stride, const T* taps, std::int64_t taps_stride,
                    std::int64_t n) {
  if (signal_stride == 1 && taps_stride == 1) return past(signal, taps, n);
  T sum = 0;
  for (std::int64_t j = 0; j < n; ++j) sum += signal[j * signal_stride] * taps[(n - 1 - j) * taps_stride];
  return sum;
}

template <class T>
void mixer_step(const MixerStep& args, std::int64_t first, std::int64_t last) {
  const std::int64_t steps = args.taps.size[0], channels = args.taps.size[1], t = args.t;
  const std::int64_t blocks = (channels + step_channels - 1) / step_channels, n_past = t % args.window;
  alignas(64) T v[step_channels], gate[step_channels], earlier[step_channels], newest[step_channels];
  for (std::int64_t task = first; task < last; ++task) {
    const std::int64_t b = task / blocks, c = task % blocks * step_channels;
    const std::int64_t n = channels - c < step_channels ? channels - c : step_channels;
    View u = args.u, future = args.future;
    project(v, args, b, (steps + 1) * channels + c, n);
    for (std::int64_t o = 0; o < steps; ++o) {
      project(gate, args, b, (steps - o) * channels + c, n);
      multiply(v, gate, n);
      write(channels_at(u, b, c, t), 0, v, n);
      read<With::set>(earlier, channels_at(future, b, c, t), 0, n);
      read<With::set>(newest, channels_at(args.taps, o, c, 0), 0, n);
      for (std::int64_t i = 0; i < n; ++i) earlier[i] += newest[i] * v[i];
      const T* signal = static_cast<const T*>(u.data) + b * u.stride[0] + c * u.stride[1] + (t - n_past) * u.stride[2];
      const T* taps = static_cast<const T*>(args.taps.data) + o * args.taps.stride[0] + c * args.taps.stride[1] +
                      args.taps.stride[2];
      for (std::int64_t i = 0; i < n; ++i)
        v[i] = earlier[i] + past(signal + i * u.stride[1], u.stride[2], taps + i * args.taps.stride[1],
                                 args.taps.stride[2], n_past);
      u.data = static_cast<T*>(u.data) + args.u_stride;
      future.data = static_cast<T*>(future.data) + args.future_stride;
    }
    project(gate, args, b, c, n);
    multiply(v, gate, n);
    write(channels_at(args.y, b, c, 0), 0, v, n);
  }
}

void mixer_step_of(const MixerStep& args, std::int64_t first, std::int64_t last) {
  args.u.dtype == Dtype::f64 ? mixer_step<double>(args, first, last) : mixer_step<float>(args, first, last);
}

}  // namespace

const MixerStepKernels HYENA_KERNELS(mixer_step) = {mixer_step_of};

}  // namespace hyena
