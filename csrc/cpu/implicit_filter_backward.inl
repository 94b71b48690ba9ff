// Gradients of implicit filters. Each tile of positions runs forward again, then backward.
//
// Gradients of weights are products in which the lanes of vectors are the layer's inputs, so activations are transposed
// first. The gradients are summed in the type of the inputs over a group of tiles, and then in float64.
#pragma once

#include "sine_network.inl"

namespace hyena {
namespace {

constexpr std::int64_t group_tiles = 8;   // tiles between two additions in float64

constexpr std::int64_t block_panels = 8;  // panels of channels that are processed together


// Turns rows of positions into rows of units with `lanes` elements each. Lanes without a unit are zero.
template <class T>
void transpose_rows(const T* in, std::int64_t rows, T* out, std::int64_t lanes) {
  for (std::int64_t i = 0; i < lanes; i += width<T>) {
    for (std::int64_t n = 0; n < tile; n += width<T>) {
      Vec<T> square[Simd<T>::width];
      for (int r = 0; r < width<T>; ++r) square[r] = i + r < rows ? load(in + (i + r) * tile + n) : Vec<T>{};
      transpose<T>(square);
      for (int r = 0; r < width<T>; ++r) store(out + (n + r) * lanes + i, square[r]);
    }
  }
}

// The sum of the lanes: each half is added to the other until one lane is left.
template <class T>
HYENA_INLINE T sum_of_lanes(Vec<T> v) {
  T lanes[Simd<T>::width];
  std::memcpy(lanes, &v, sizeof v);
  for (std::int64_t half = width<T> / 2; half > 0; half /= 2) {
    for (std::int64_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

// A gradient that is a sum over positions: the sum over a group of tiles, in rows of `lanes` elements. `place` is where
// the gradient starts in a row of `ImplicitFilterBackward::sums`.
template <class T>
struct Sum {
  T* data = nullptr;
  std::int64_t rows = 0, columns = 0, lanes = 0, place = 0;

  void move_to(double* chunk, bool begin) const {
    for (std::int64_t r = 0; r < rows; ++r) {
      double* to = chunk + place + r * columns;
      const T* from = data + r * lanes;
      if (begin) {
        for (std::int64_t c = 0; c < columns; ++c) to[c] = from[c];
      } else {
        for (std::int64_t c = 0; c < columns; ++c) to[c] += from[c];
      }
    }
  }
};

template <class T>
struct BackwardWork {
  Network<T> network;
  Packed<T> input, hidden, output;  // transposed
  double* wide_features;
  T *features, *t, *dt, *linear, *sines, *cosines;  // the last three hold all layers
  T *transposed, *dsine, *dlinear, *rows, *drows, *decays, *dfeatures;
  Sum<T> dfreq, dw_in, db_in, dw_hidden, db_hidden, dw_out, ddeltas;
  T* sums;
  std::size_t sums_bytes;

  static Sum<T> sum(Arrays& arrays, std::int64_t padded_rows, std::int64_t rows, std::int64_t columns,
                    std::int64_t lanes, std::int64_t& place) {
    const Sum<T> result{arrays.take<T>(padded_rows * lanes), rows, columns, lanes, place};
    place += rows * columns;
    return result;
  }

  BackwardWork(const ImplicitFilterInputs& in, Arrays& arrays)
      : network(in, arrays),
        input(arrays, network.shape.features, network.shape.units),
        hidden(arrays, network.shape.hidden * network.shape.unit_rows, network.shape.units),
        output(arrays, network.shape.units, network.shape.channels) {
    const Shape<T>& shape = network.shape;
    const std::int64_t layers = shape.hidden + 1, block_rows = block_panels * panel;
    wide_features = arrays.take<double>(shape.features * tile);
    features = arrays.take<T>(shape.features * tile);
    t = arrays.take<T>(tile);
    dt = arrays.take<T>(tile);
    linear = arrays.take<T>(layers * shape.unit_rows * tile);
    sines = arrays.take<T>(layers * shape.unit_rows * tile);
    cosines = arrays.take<T>(layers * shape.unit_rows * tile);
    const std::int64_t most_lanes = shape.unit_lanes > shape.feature_lanes ? shape.unit_lanes : shape.feature_lanes;
    transposed = arrays.take<T>(tile * most_lanes);
    dsine = arrays.take<T>(shape.unit_rows * tile);
    dlinear = arrays.take<T>(shape.unit_rows * tile);
    rows = arrays.take<T>(block_rows * tile);
    drows = arrays.take<T>(block_rows * tile);
    decays = arrays.take<T>(tile);
    dfeatures = arrays.take<T>(shape.feature_rows * tile);
    const std::size_t before = arrays.used;
    std::int64_t place = 0;
    dfreq = sum(arrays, 1, 1, shape.units, shape.units, place);
    dw_in = sum(arrays, shape.unit_rows, shape.units, shape.features, shape.feature_lanes, place);
    db_in = sum(arrays, 1, 1, shape.units, shape.units, place);
    // The rows of a hidden layer follow those of the layer before without a gap. A product also adds to the rows that
    // pad its last panel, which belong to the next layer. It adds zero there, or NaN where the layer above is all NaN.
    // The last layer has room for this padding.
    dw_hidden = sum(arrays, shape.hidden * shape.units + panel, shape.hidden * shape.units, shape.units,
                    shape.unit_lanes, place);
    db_hidden = sum(arrays, shape.hidden, shape.hidden, shape.units, shape.units, place);
    dw_out = sum(arrays, shape.channel_rows, shape.channels, shape.units, shape.unit_lanes, place);
    ddeltas = sum(arrays, 1, 1, shape.channels, shape.channels, place);
    sums = dfreq.data;
    sums_bytes = arrays.used - before;
  }

  void pack(const ImplicitFilterInputs& in) const {
    const Shape<T>& shape = network.shape;
    network.pack(in);
    input.pack(at<T>(in.w_in), in.w_in.stride[1], in.w_in.stride[0]);
    for (std::int64_t m = 0; m < shape.hidden; ++m)
      layer(m + 1).pack(at<T>(in.w_hidden, m), in.w_hidden.stride[2], in.w_hidden.stride[1]);
    output.pack(at<T>(in.w_out), in.w_out.stride[1], in.w_out.stride[0]);
  }

  Packed<T> layer(std::int64_t index) const {
    if (index == 0) return input;
    Packed<T> weights = hidden;
    weights.data += (index - 1) * network.shape.unit_rows * network.shape.units;
    weights.rows = network.shape.units;
    return weights;
  }
};

template <class T>
struct Backward {
  const ImplicitFilterBackward& args;
  const ImplicitFilterInputs& in;
  const BackwardWork<T> work;
  const Network<T>& network;
  const Shape<T>& shape;
  const bool window;
  const std::int64_t layers, layer_size;
  std::int64_t lowest;  // the first layer whose pre-activations need a gradient, or `layers` if none does

  explicit Backward(const ImplicitFilterBackward& args)
      : args(args),
        in(args.in),
        work(in_scratch<BackwardWork<T>, T>(args.in)),
        network(work.network),
        shape(network.shape),
        window(in.t && in.deltas),
        layers(shape.hidden + 1),
        layer_size(shape.unit_rows * tile) {
    lowest = args.dz || args.dfreq || args.dw_in || args.db_in ? 0 : args.dw_hidden || args.db_hidden ? 1 : layers;
    work.pack(in);
  }
  Backward(const Backward&) = delete;
  Backward& operator=(const Backward&) = delete;
  ~Backward() { trim_scratch(For::rows); }

  // Adds Σ over the tile's positions of left[r] · (transposed activations) to the rows of `sum`.
  void add_products(const T* left, std::int64_t rows, std::int64_t lanes, T* sum) const {
    Product<T> product{work.transposed, lanes, tile, lanes, sum, lanes};
    product.add = true;
    multiply<tile, 1>(left, panel * tile, round_up(rows, panel) / panel, product);
  }

  void tile_at(std::int64_t first) const {
    const std::int64_t count = least(tile, shape.length - first);
    read_features(in.z, first, count, work.wide_features);
    if (args.dw_in) read_features(in.z, first, count, work.features);
    if (window) read_times(in.t, first, count, work.t);
    network.template run_input<true>(work.wide_features, work.linear, work.sines, work.cosines);
    for (std::int64_t m = 0; m < shape.hidden; ++m) {
      const std::int64_t next = (m + 1) * layer_size;
      network.template run_hidden<true>(m, work.sines + m * layer_size, work.linear + next, work.sines + next,
                                        work.cosines + next);
    }
    output_layer(first, count);
    for (std::int64_t l = layers - 1; l >= lowest; --l) hidden_layer(l);
    if (args.dz) {
      work.input.times({work.dlinear, tile, shape.units, tile, work.dfeatures, tile});
      for (std::int64_t e = 0; e < shape.features; ++e) {
        const Row to{static_cast<char*>(args.dz.data) + e * sizeof(T), args.dz.dtype, shape.features};
        write(to, first, work.dfeatures + e * tile, count);
      }
    }
    if (args.dt) write(Row{static_cast<char*>(args.dt.data), args.dt.dtype, 1}, first, work.dt, count);
  }

  // Computes the gradient of the last sines from the gradient of the filters, one block of channels at a time.
  void output_layer(std::int64_t first, std::int64_t count) const {
    const T* sines = work.sines + (layers - 1) * layer_size;
    const bool exponent = window && (args.dt || args.ddeltas);
    std::memset(work.dt, 0, tile * sizeof(T));
    std::memset(work.dsine, 0, layer_size * sizeof(T));
    if (args.dw_out) transpose_rows(sines, shape.units, work.transposed, shape.unit_lanes);
    const std::int64_t block_rows = block_panels * panel;
    for (std::int64_t begin = 0; begin < shape.channels; begin += block_rows) {
      const std::int64_t rows = least(block_rows, shape.channels - begin);
      if (exponent) {
        Packed<T> weights = network.output;
        weights.data += begin * shape.units;
        weights.rows = rows;
        weights.times({sines, tile, shape.units, tile, work.rows, tile});
      }
      for (std::int64_t r = 0; r < round_up(rows, panel); ++r) {
        T* gradient = work.drows + r * tile;
        const std::int64_t valid = r < rows ? count : 0;
        if (valid) {
          const Row from = row(args.dk, begin + r);
          // The processor does not foresee the next tile's part of the row: other rows are read in between.
          for (std::int64_t n = 0; from.stride == 1 && n < tile * static_cast<std::int64_t>(sizeof(T)); n += 64)
            __builtin_prefetch(from.data + (first + tile) * static_cast<std::int64_t>(sizeof(T)) + n);
          read<With::set>(gradient, from, first, valid);
        }
        std::memset(gradient + valid, 0, (tile - valid) * sizeof(T));
        if (valid && window) window_row(begin + r, work.rows + r * tile, gradient, exponent);
      }
      if (args.dw_out) add_products(work.drows, rows, shape.unit_lanes, work.dw_out.data + begin * shape.unit_lanes);
      if (lowest < layers) {
        Product<T> product{work.drows, tile, rows, tile, work.dsine, tile};
        product.add = true;
        work.output.times(product, begin);
      }
    }
  }

  // Multiplies the gradient of channel d with its window. `values` is the channel's filter without the window.
  void window_row(std::int64_t d, const T* values, T* gradient, bool exponent) const {
    const T delta = network.deltas[d], size = delta < 0 ? -delta : delta, shift = static_cast<T>(in.shift);
    decay(work.t, delta, work.decays);
    if (exponent) {
      Vec<T> sum{};
      for (std::int64_t n = 0; n < tile; n += width<T>) {
        const Vec<T> dexponent = load(values + n) * load(gradient + n) * load(work.decays + n);
        store(work.dt + n, load(work.dt + n) - size * dexponent);
        sum += dexponent * load(work.t + n);
      }
      const T sign = delta > 0 ? T(1) : delta < 0 ? T(-1) : T(0);
      work.ddeltas.data[d] -= sign * sum_of_lanes<T>(sum);
    }
    for (std::int64_t n = 0; n < tile; n += width<T>)
      store(gradient + n, (load(work.decays + n) + shift) * load(gradient + n));
  }

  // Computes the gradient of a layer's pre-activations from that of its sines, then the gradient of the sines below.
  void hidden_layer(std::int64_t l) const {
    const T *linear = work.linear + l * layer_size, *cosines = work.cosines + l * layer_size;
    T* dbias = l ? work.db_hidden.data + (l - 1) * shape.units : work.db_in.data;
    for (std::int64_t j = 0; j < shape.unit_rows; ++j) {
      const T freq = j < shape.units ? network.freq[j] : T(0);
      Vec<T> dfreq{}, sum{};
      for (std::int64_t n = j * tile; n < (j + 1) * tile; n += width<T>) {
        if (j >= shape.units) {
          store(work.dlinear + n, Vec<T>{});
          continue;
        }
        const Vec<T> dangle = load(work.dsine + n) * load(cosines + n);
        const Vec<T> dlinear = dangle * freq;
        dfreq += dangle * load(linear + n);
        sum += dlinear;
        store(work.dlinear + n, dlinear);
      }
      if (j >= shape.units) continue;
      work.dfreq.data[j] += sum_of_lanes<T>(dfreq);
      dbias[j] += sum_of_lanes<T>(sum);
    }
    if (l ? args.dw_hidden : args.dw_in) {
      const std::int64_t lanes = l ? shape.unit_lanes : shape.feature_lanes;
      transpose_rows(l ? work.sines + (l - 1) * layer_size : work.features, l ? shape.units : shape.features,
                     work.transposed, lanes);
      add_products(work.dlinear, shape.units, lanes,
                   l ? work.dw_hidden.data + (l - 1) * shape.units * lanes : work.dw_in.data);
    }
    if (l > lowest) work.layer(l).times({work.dlinear, tile, shape.units, tile, work.dsine, tile});
  }

  void chunk(std::int64_t index) const {
    double* sums = static_cast<double*>(args.sums.data) + index * args.sums.size[1];
    const std::int64_t begin = index * args.chunk, end = least(begin + args.chunk, shape.length);
    for (std::int64_t group = begin; group < end; group += group_tiles * tile) {
      std::memset(work.sums, 0, work.sums_bytes);
      for (std::int64_t first = group; first < least(group + group_tiles * tile, end); first += tile) tile_at(first);
      const Sum<T>* all[] = {&work.dfreq,     &work.dw_in,  &work.db_in,  &work.dw_hidden,
                             &work.db_hidden, &work.dw_out, &work.ddeltas};
      for (const Sum<T>* sum : all) sum->move_to(sums, group == begin);
    }
  }
};

template <class T>
void add_chunks(const ImplicitFilterBackward& args, std::int64_t first, std::int64_t last) {
  const ImplicitFilterInputs& in = args.in;
  const View* inputs[] = {&in.freq, &in.w_in, &in.b_in, &in.w_hidden, &in.b_hidden, &in.w_out, &in.deltas};
  const View* outs[] = {&args.dfreq,     &args.dw_in,  &args.db_in,  &args.dw_hidden,
                        &args.db_hidden, &args.dw_out, &args.ddeltas};
  const double* sums = static_cast<const double*>(args.sums.data);
  std::int64_t place = 0;
  for (int i = 0; i < 7; ++i) {
    const std::int64_t count = inputs[i]->size[0] * inputs[i]->size[1] * inputs[i]->size[2];
    const std::int64_t begin = first > place ? first : place, end = least(last, place + count);
    T* out = static_cast<T*>(outs[i]->data);
    constexpr std::int64_t at_a_time = 64;
    for (std::int64_t e = begin; out && e < end; e += at_a_time) {
      double total[at_a_time] = {};
      const std::int64_t now = least(at_a_time, end - e);
      for (std::int64_t c = 0; c < args.sums.size[0]; ++c) {
        for (std::int64_t j = 0; j < now; ++j) total[j] += sums[c * args.sums.size[1] + e + j];
      }
      for (std::int64_t j = 0; j < now; ++j) out[e - place + j] = static_cast<T>(total[j]);
    }
    place += count;
  }
}

template <class T>
void backward(const ImplicitFilterBackward& args, std::int64_t first, std::int64_t last) {
  const Backward<T> work(args);
  for (std::int64_t index = first; index < last; ++index) work.chunk(index);
}

}  // namespace
}  // namespace hyena
