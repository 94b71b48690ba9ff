// The sine network of an implicit filter, for one tile of positions at a time.
//
// Activations of a tile are rows of positions, one row per unit, so that the lanes of vectors are positions.
#pragma once

#include "elementary.h"
#include "implicit_filter.h"
#include "products.inl"
#include "rows.h"
#include "scratch.h"

namespace hyena {
namespace {

constexpr std::int64_t tile = 64;         // positions

template <class T>
struct Shape {
  std::int64_t features, units, hidden, channels, length;
  std::int64_t unit_rows, unit_lanes, feature_rows, feature_lanes, channel_rows;

  explicit Shape(const ImplicitFilterInputs& in)
      : features(in.z.size[1]),
        units(in.freq.size[0]),
        hidden(in.w_hidden.size[0]),
        channels(in.w_out.size[0]),
        length(in.z.size[0]),
        unit_rows(round_up(units, panel)),
        unit_lanes(round_up(units, width<T>)),
        feature_rows(round_up(features, panel)),
        feature_lanes(round_up(features, width<T>)),
        channel_rows(round_up(channels, panel)) {}
};

template <class T>
HYENA_INLINE const T* at(const View& v, std::int64_t a = 0) {
  return static_cast<const T*>(v.data) + a * v.stride[0];
}

template <class T>
void copy(const View& v, T* out, std::int64_t a = -1) {
  const Row from = a < 0 ? Row{static_cast<char*>(v.data), v.dtype, v.stride[0]} : row(v, a);
  read<With::set>(out, from, 0, v.size[a < 0 ? 0 : 1]);
}

// Positions first … first + count - 1 of z as rows of features. The rest of the tile repeats the last position, so that
// nothing is infinite there unless it is infinite for that position.
template <class T>
void read_features(const View& z, std::int64_t first, std::int64_t count, T* out) {
  for (std::int64_t e = 0; e < z.size[1]; ++e) {
    T* to = out + e * tile;
    const Row from{static_cast<char*>(z.data) + e * z.stride[1] * bytes_of(z.dtype), z.dtype, z.stride[0]};
    read<With::set>(to, from, first, count);
    for (std::int64_t n = count; n < tile; ++n) to[n] = to[count - 1];
  }
}

template <class T>
void read_times(const View& t, std::int64_t first, std::int64_t count, T* out) {
  read<With::set>(out, Row{static_cast<char*>(t.data), t.dtype, t.stride[0]}, first, count);
  for (std::int64_t n = count; n < tile; ++n) out[n] = out[count - 1];
}

// Sines of the input, times freq with `with_freq`. Also the cosines with `with_cosines`.
template <bool with_freq, bool with_cosines, class T>
void activate(const T* in, const T* freq, std::int64_t units, T* sines, T* cosines) {
  Bits<T> far{};
  for (std::int64_t j = 0; j < units; ++j) {
    for (std::int64_t n = j * tile; n < (j + 1) * tile; n += width<T>) {
      Vec<T> x = load(in + n);
      if (with_freq) x = x * freq[j];
      far |= out_of_reach<T>(x);
      Vec<T> rest;
      Bits<T> sign;
      reduce<T>(x, rest, sign);
      const Vec<T> square = rest * rest;
      store(sines + n, sine_of_rest<T>(rest, square, sign));
      if (with_cosines) store(cosines + n, cosine_of_rest<T>(square, sign));
    }
  }
  if (!any<T>(far)) return;
  for (std::int64_t i = 0; i < units * tile; ++i) {
    const T x = with_freq ? in[i] * freq[i / tile] : in[i];
    if (x <= Elementary<T>::largest_angle && x >= -Elementary<T>::largest_angle) continue;
    sines[i] = libm_sine(x);
    if (with_cosines) cosines[i] = libm_cosine(x);
  }
}

// Adds the bias to rows of float64 pre-activations. Writes the result in float32, and its angles between -π and π.
// Angles that are too large to reduce stay as they are: activate() passes them to libm.
void reduce_rows(const double* sums, const float* bias, const float* freq, std::int64_t rows, float* linear,
                 float* angles) {
  typedef float Half __attribute__((vector_size(HYENA_VECTOR_BYTES / 2)));
  constexpr double turn = 6.283185307179586477, integer = Elementary<double>::integer;
  for (std::int64_t r = 0; r < rows; ++r) {
    const double offset = bias[r], factor = freq[r];
    for (std::int64_t n = r * tile; n < (r + 1) * tile; n += width<double>) {
      const Vec<double> sum = load(sums + n) + offset, x = sum * factor;
      const Vec<double> turns = (x * (1.0 / turn) + integer) - integer;
      const Vec<double> angle = out_of_reach<double>(x) ? x : x - turns * turn;
      const Half rounded = __builtin_convertvector(sum, Half), rounded_angle = __builtin_convertvector(angle, Half);
      std::memcpy(linear + n, &rounded, sizeof rounded);
      std::memcpy(angles + n, &rounded_angle, sizeof rounded_angle);
    }
  }
}

// Weights and biases, packed for the products of the forward pass. Layer 0 is the input layer.
template <class T>
struct Network {
  Shape<T> shape;
  T *freq, *bias, *deltas;
  Packed<double> input;
  Packed<T> hidden, output;  // hidden: all layers one after the other, each padded to whole panels
  // Work arrays of the input layer.
  double* sums;
  T* angles;

  Network(const ImplicitFilterInputs& in, Arrays& arrays)
      : shape(in),
        freq(arrays.take<T>(shape.units)),
        bias(arrays.take<T>((shape.hidden + 1) * shape.unit_rows)),
        deltas(arrays.take<T>(shape.channels)),
        input(arrays, shape.units, shape.features),
        hidden(arrays, shape.hidden * shape.unit_rows, shape.units),
        output(arrays, shape.channels, shape.units),
        sums(arrays.take<double>(shape.unit_rows * tile)),
        angles(arrays.take<T>(shape.unit_rows * tile)) {}

  void pack(const ImplicitFilterInputs& in) const {
    copy(in.freq, freq);
    std::memset(bias, 0, (shape.hidden + 1) * shape.unit_rows * sizeof(T));
    copy(in.b_in, bias);
    for (std::int64_t m = 0; m < shape.hidden; ++m) copy(in.b_hidden, bias + (m + 1) * shape.unit_rows, m);
    if (in.deltas) copy(in.deltas, deltas);
    input.pack(at<T>(in.w_in), in.w_in.stride[0], in.w_in.stride[1]);
    for (std::int64_t m = 0; m < shape.hidden; ++m)
      hidden_layer(m).pack(at<T>(in.w_hidden, m), in.w_hidden.stride[1], in.w_hidden.stride[2]);
    output.pack(at<T>(in.w_out), in.w_out.stride[0], in.w_out.stride[1]);
  }

  Packed<T> hidden_layer(std::int64_t m) const {
    Packed<T> weights = hidden;
    weights.data += m * shape.unit_rows * shape.units;
    weights.rows = shape.units;
    return weights;
  }

  // The input layer's pre-activations before they are multiplied with the frequency, its sines and, with
  // `with_cosines`, its cosines. It computes in float64: the layers above amplify errors of this layer most, and it is
  // a small product.
  template <bool with_cosines>
  void run_input(const double* features, T* linear, T* sines, T* cosines) const {
    if constexpr (sizeof(T) == sizeof(double)) {
      input.times({features, tile, shape.features, tile, linear, tile, bias});
      activate<true, with_cosines>(linear, freq, shape.units, sines, cosines);
    } else {
      input.times({features, tile, shape.features, tile, sums, tile});
      reduce_rows(sums, bias, freq, shape.units, linear, angles);
      activate<false, with_cosines, T>(angles, nullptr, shape.units, sines, cosines);
    }
  }

  template <bool with_cosines>
  void run_hidden(std::int64_t m, const T* inputs, T* linear, T* sines, T* cosines) const {
    hidden_layer(m).times({inputs, tile, shape.units, tile, linear, tile, bias + (m + 1) * shape.unit_rows});
    activate<true, with_cosines>(linear, freq, shape.units, sines, cosines);
  }
};

// exp(-t |delta|) for the positions of a tile
template <class T>
HYENA_INLINE void decay(const T* t, T delta, T* out) {
  const T rate = delta < 0 ? delta : -delta;
  for (std::int64_t n = 0; n < tile; n += width<T>) store(out + n, exponential<T>(load(t + n) * rate));
}

// out = values · (exp(-t |delta|) + shift)
template <class T>
void write_windowed(const T* t, T delta, T shift, const T* values, T* out) {
  const T rate = delta < 0 ? delta : -delta;
#pragma GCC unroll 4
  for (std::int64_t n = 0; n < tile; n += width<T>)
    store_unaligned(out + n, load(values + n) * (exponential<T>(load(t + n) * rate) + shift));
}

template <class Work, class T, class... Rest>
Work in_scratch(const ImplicitFilterInputs& in, Rest... rest) {
  Arrays counted{nullptr};
  Work(in, counted, rest...);
  Arrays arrays{static_cast<char*>(scratch(For::rows, counted.used))};
  return Work(in, arrays, rest...);
}

}  // namespace
}  // namespace hyena
