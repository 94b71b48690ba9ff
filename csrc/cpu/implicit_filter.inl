// Implicit filters: the forward pass, and the kernels of this instruction set.
//
// One tile of positions at a time goes through the whole network, so its activations stay in the cache. The network is
// in sine_network.inl, its products are in products.inl, and the gradients are in implicit_filter_backward.inl.
#include "implicit_filter_backward.inl"
#include "sine_network.inl"

namespace hyena {
namespace {

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
