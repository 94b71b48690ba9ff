// Implicit filters, forward and backward: a tile of positions at a time goes through the whole network in the cache.
//
// Activations of a tile are rows of positions, one for each unit, so that lanes of vectors are positions. Products with
// weights keep a panel of rows times two vectors of positions in registers; weights are packed in the order in which
// they are met there. Gradients of weights are products of the same form whose lanes are the layer's inputs, with the
// activations transposed. They are summed in the type of the inputs over a group of tiles, and in float64 from there.
#include "elementary.h"
#include "implicit_filter.h"
#include "rows.h"
#include "scratch.h"

namespace hyena {
namespace {

constexpr std::int64_t tile = 64;         // positions
constexpr std::int64_t group_tiles = 8;   // tiles between additions in float64

#if HYENA_VECTOR_BYTES == 64
constexpr int panel = 8;  // rows of a product that registers hold beside each other: 8 × 2 sums
#elif HYENA_VECTOR_BYTES == 32
constexpr int panel = 6;
#else
constexpr int panel = 4;
#endif
constexpr std::int64_t block_panels = 8;  // panels of channels that backward takes at a time

template <class T>
constexpr std::int64_t width = Simd<T>::width;

HYENA_INLINE std::int64_t round_up(std::int64_t n, std::int64_t unit) { return (n + unit - 1) / unit * unit; }

HYENA_INLINE std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

// Arrays one after the other in memory that begins at `base`; without one it only counts.
struct Arrays {
  char* base;
  std::size_t used = 0;

  template <class T>
  T* take(std::int64_t count) {
    T* array = base ? reinterpret_cast<T*>(base + used) : nullptr;
    used += static_cast<std::size_t>(round_up(count * static_cast<std::int64_t>(sizeof(T)), 64));
    return array;
  }
};

// sum[r][v] = Σ_k left[r, k] · right[k, v], where element (r, k) of left lies at r row + k step.
template <int vectors, int row, int step, class T>
HYENA_INLINE void multiply_panel(const T* left, const T* right, std::int64_t right_stride, std::int64_t depth,
                                 Vec<T> (&sum)[panel][vectors]) {
  for (std::int64_t k = 0; k < depth; ++k) {
    Vec<T> x[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) x[v] = load(right + k * right_stride + v * width<T>);
#pragma GCC unroll 16
    for (int r = 0; r < panel; ++r) {
      const T factor = left[r * row + k * step];
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) sum[r][v] += factor * x[v];
    }
  }
}

// A product's right side and where it goes; strides are of rows, in elements.
template <class T>
struct Product {
  const T* right;
  std::int64_t right_stride, depth, columns;
  T* out;
  std::int64_t out_stride;
  const T* bias = nullptr;  // of each row
  bool add = false;         // add to what is in `out`
};

template <int vectors, int row, int step, class T>
HYENA_INLINE void multiply_columns(const T* left, const Product<T>& p, const T* bias, std::int64_t column, T* out) {
  Vec<T> sum[panel][vectors];
#pragma GCC unroll 16
  for (int r = 0; r < panel; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) sum[r][v] = Vec<T>{};
  }
  if (bias) {
    // Sums that go through a sine with a high frequency: in parts, whose rounding errors are smaller.
    constexpr std::int64_t part = 16;
    for (std::int64_t k = 0; k < p.depth; k += part) {
      Vec<T> some[panel][vectors] = {};
      multiply_panel<vectors, row, step>(left + k * step, p.right + k * p.right_stride + column, p.right_stride,
                                         least(part, p.depth - k), some);
      for (int r = 0; r < panel; ++r) {
        for (int v = 0; v < vectors; ++v) sum[r][v] += some[r][v];
      }
    }
  } else {
    multiply_panel<vectors, row, step>(left, p.right + column, p.right_stride, p.depth, sum);
  }
#pragma GCC unroll 16
  for (int r = 0; r < panel; ++r) {
    T* to = out + r * p.out_stride + column;
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      // As plain PyTorch does, the bias comes last.
      if (bias) sum[r][v] += bias[r];
      if (p.add) sum[r][v] += load(to + v * width<T>);
      store(to + v * width<T>, sum[r][v]);
    }
  }
}

// Panels of rows of left, `left_panel` elements from one to the next, times the right side.
template <int row, int step, class T>
__attribute__((noinline)) void multiply(const T* left, std::int64_t left_panel, std::int64_t panels,
                                        const Product<T>& p) {
  for (std::int64_t i = 0; i < panels; ++i) {
    const T* from = left + i * left_panel;
    const T* bias = p.bias ? p.bias + i * panel : nullptr;
    T* out = p.out + i * panel * p.out_stride;
    std::int64_t column = 0;
    for (; column + 2 * width<T> <= p.columns; column += 2 * width<T>)
      multiply_columns<2, row, step>(from, p, bias, column, out);
    if (column < p.columns) multiply_columns<1, row, step>(from, p, bias, column, out);
  }
}

// A matrix in panels: for each `panel` rows, their elements of column 0, those of column 1, ….
template <class T>
struct Packed {
  T* data;
  std::int64_t rows, depth;

  Packed(Arrays& arrays, std::int64_t rows, std::int64_t depth)
      : data(arrays.take<T>(round_up(rows, panel) * depth)), rows(rows), depth(depth) {}

  std::int64_t panels() const { return round_up(rows, panel) / panel; }

  template <class From>
  void pack(const From* from, std::int64_t row_stride, std::int64_t column_stride) const {
    T* to = data;
    for (std::int64_t i = 0; i < rows; i += panel) {
      for (std::int64_t k = 0; k < depth; ++k) {
        for (std::int64_t r = i; r < i + panel; ++r)
          *to++ = r < rows ? static_cast<T>(from[r * row_stride + k * column_stride]) : T(0);
      }
    }
  }

  // Columns first … first + p.depth - 1 times p's right side.
  void times(const Product<T>& p, std::int64_t first = 0) const {
    multiply<1, panel>(data + first * panel, depth * panel, panels(), p);
  }
};

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

// Positions first … first + count - 1 of z as rows of features. The last position fills up the tile: what is computed
// there is as finite as what is computed for that position.
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

// Sines of angles, or of linear · freq if there is `freq`, and cosines if there is somewhere to put them.
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

// Rows of float64 pre-activations, without bias, to pre-activations and to angles between -π and π, or any angle if it
// is so large that activate() takes it to libm.
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

// Weights and biases as the products of forward take them. Layer 0 is the input layer.
template <class T>
struct Network {
  Shape<T> shape;
  T *freq, *bias, *deltas;
  Packed<double> input;
  Packed<T> hidden, output;  // hidden: all layers above each other, each padded to whole panels
  // Of the input layer, on their way to its sines.
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

  // The input layer's pre-activations without their frequency, its sines, and cosines if there is a place for them.
  // Computed in float64, for these errors are the ones that the layers above multiply most, and cost little to avoid.
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

// exp(-t |delta|) for the positions of a tile.
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

template <class T>
struct ForwardWork {
  Network<T> network;
  double* features;
  T *t, *linear, *sines, *rows;

  ForwardWork(const ImplicitFilterInputs& in, Arrays& arrays)
      : network(in, arrays),
        features(arrays.take<double>(network.shape.features * tile)),
        t(arrays.take<T>(tile)),
        linear(arrays.take<T>(network.shape.unit_rows * tile)),
        sines(arrays.take<T>(network.shape.units * tile)),
        rows(arrays.take<T>(panel * tile)) {}
};

template <class Work, class T, class... Rest>
Work in_scratch(const ImplicitFilterInputs& in, Rest... rest) {
  Arrays counted{nullptr};
  Work(in, counted, rest...);
  Arrays arrays{static_cast<char*>(scratch(For::rows, counted.used))};
  return Work(in, arrays, rest...);
}

template <class T>
void forward(const ImplicitFilterForward& args, std::int64_t first_tile, std::int64_t last_tile) {
  const ImplicitFilterInputs& in = args.in;
  const auto work = in_scratch<ForwardWork<T>, T>(in);
  const Network<T>& network = work.network;
  const Shape<T>& shape = network.shape;
  const bool window = in.t && in.deltas;
  const T shift = static_cast<T>(in.shift);
  network.pack(in);
  for (std::int64_t first = first_tile * tile; first < least(last_tile * tile, shape.length); first += tile) {
    const std::int64_t count = least(tile, shape.length - first);
    read_features(in.z, first, count, work.features);
    if (window) read_times(in.t, first, count, work.t);
    network.template run_input<false>(work.features, work.linear, work.sines, nullptr);
    for (std::int64_t m = 0; m < shape.hidden; ++m)
      network.template run_hidden<false>(m, work.sines, work.linear, work.sines, nullptr);
    for (std::int64_t i = 0; i < shape.channels; i += panel) {
      Packed<T> weights = network.output;
      weights.data += i * shape.units;
      weights.rows = panel;
      weights.times({work.sines, tile, shape.units, tile, work.rows, tile});
      for (std::int64_t d = i; d < least(i + panel, shape.channels); ++d) {
        T* values = work.rows + (d - i) * tile;
        T* out = static_cast<T*>(args.k.data) + d * shape.length + first;
        T* to = count == tile ? out : values;
        if (window) {
          write_windowed(work.t, network.deltas[d], shift, values, to);
          if (to == out) continue;
        }
        std::memcpy(out, values, count * sizeof(T));
      }
    }
  }
  trim_scratch(For::rows);
}

// Rows of positions become rows of units, `lanes` elements each; lanes that no unit fills are zero.
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

// The sum of the lanes, in an order of its own.
template <class T>
HYENA_INLINE T sum_of_lanes(Vec<T> v) {
  T lanes[Simd<T>::width];
  std::memcpy(lanes, &v, sizeof v);
  for (std::int64_t half = width<T> / 2; half > 0; half /= 2) {
    for (std::int64_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

// A gradient that is a sum over positions: what a group of tiles adds to it, in rows of `lanes`, and the place in a row
// of the sums over chunks.
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
  T *features, *t, *dt, *linear, *sines, *cosines;  // the last three of all layers
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
    // Rows of one hidden layer lie right after those of the one before; what a product adds to rows that pad its last
    // panel is zero (or NaN, where all of the layer above is NaN too), and there is room for it at the end.
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
  std::int64_t lowest;  // the first layer whose pre-activations need a gradient; `layers` if none does

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

  // Σ over the tile's positions of left[r] · (transposed activations), added to rows of `sum`.
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

  // From the gradient of the filters to that of the last sines, a block of channels at a time.
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
          // The next tile's part of the row lies far from everything that is read in between.
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

  // Multiplies the gradient of channel d by its window; `values` are the channel's filter without it.
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

  // From the gradient of a layer's sines to that of its pre-activations, and of the sines below.
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

bool is_wide(const ImplicitFilterInputs& in) { return in.z.dtype == Dtype::f64; }

void run_forward(const ImplicitFilterForward& args, std::int64_t first, std::int64_t last) {
  (is_wide(args.in) ? forward<double> : forward<float>)(args, first, last);
}

void run_backward(const ImplicitFilterBackward& args, std::int64_t first, std::int64_t last) {
  (is_wide(args.in) ? backward<double> : backward<float>)(args, first, last);
}

void run_add_chunks(const ImplicitFilterBackward& args, std::int64_t first, std::int64_t last) {
  (is_wide(args.in) ? add_chunks<double> : add_chunks<float>)(args, first, last);
}

}  // namespace

const ImplicitFilterKernels HYENA_KERNELS(implicit_filter) = {tile, run_forward, run_backward, run_add_chunks};

}  // namespace hyena
