// Long convolutions by near field and far field, forward and backward: one row at a time, in chunks of blocks that stay
// in the first-level cache.
//
// A block of h positions takes its near field from a product with the lower triangular Toeplitz matrix of the taps of
// lags 0 … h-1, and its far field from p numbers T[α], as sum_α φ_α(a) T[α]. The first pass over a row makes the moments
// of its blocks, M[β] = sum_b φ_β(b) x[b]. They are p short rows with one number for each block, which are transformed
// (transform.inl), multiplied with the spectra of the nodes, S[α] = sum_β F[α - β] M[β], and transformed back to T. The
// second pass makes the near field, adds the far field, gates the row and writes it. Both passes read and gate the
// signal, so there is no array of the size of a row.
//
// Backward is the transpose. The gradient of the near taps is the sum over blocks of g[a] x[b] along a - b. That of the
// nodes is the sum over blocks of products of moments along α - β, which is taken in the spectrum and summed over the
// batch there, in the order of the batch.
#include "far_field.h"
#include "row_work.inl"
#include "toeplitz.inl"

namespace hyena {
namespace {

constexpr std::int64_t chunk_positions = 4096;

HYENA_INLINE std::int64_t rounded(std::int64_t n, std::int64_t unit) { return (n + unit - 1) / unit * unit; }

// Sizes and arrays of one call. Arrays of the spectra come first in the memory, all others behind them.
template <class T>
struct FarWork {
  static constexpr std::int64_t W = width<T>;
  static constexpr int vectors = 2;
  static constexpr std::int64_t lanes = vectors * W;

  std::int64_t length, h, p, blocks, chunk;  // chunk: blocks of a chunk
  std::int64_t out_row, node_row;            // h and p in whole vectors
  Work<T> work;
  T *basis, *basis_rows;      // (h, node_row): φ_β(b). (p, out_row): φ_α(a)
  T *taps, *taps_reversed;    // tap 0, with zeros before it and behind the last; tap h-1 first, zeros behind
  T *signal, *gradient;       // (chunk, h) tiles
  T* mirrored;                // (chunk, out_row): the signal, each block from its end
  T* out;                     // (chunk, out_row)
  T *signal_far, *gradient_far;  // (blocks, node_row): moments, then T
  double* near_sums;             // (2 out_row,): the gradient of tap n at h - 1 + n

  static std::int64_t aligned(std::int64_t count) { return rounded(count, 64 / static_cast<std::int64_t>(sizeof(T))); }

  FarWork(const View& u, const View& near, const View& nodes, int spectra)
      : length(u.size[2]),
        h(near.size[1]),
        p((nodes.size[1] + 1) / 2),
        blocks((length + h - 1) / h),
        chunk(rounded(chunk_positions / h > 1 ? chunk_positions / h : 1, block_rows)),
        out_row(rounded(h, lanes)),
        node_row(rounded(p, W)),
        work(blocks, spectra, numbers()) {
    T* at = work.behind();
    const auto take = [&at](std::int64_t count) {
      T* array = at;
      at += aligned(count);
      return array;
    };
    basis = take(h * node_row);
    basis_rows = take(p * out_row);
    taps = take(lanes + out_row + lanes) + lanes;
    taps_reversed = take(h + out_row);
    signal = take(tile());
    gradient = take(tile());
    mirrored = take(chunk * out_row);
    out = take(chunk * out_row);
    signal_far = take(rounded(blocks, block_rows) * node_row);
    gradient_far = take(rounded(blocks, block_rows) * node_row);
    near_sums = reinterpret_cast<double*>(take(2 * out_row * static_cast<std::int64_t>(sizeof(double) / sizeof(T))));
    std::memset(work.behind(), 0, (at - work.behind()) * sizeof(T));
    make_basis();
  }

  // Blocks of a tile, and as much again as a product reads behind the last one
  std::int64_t tile() const { return chunk * h + block_rows; }

  std::int64_t numbers() const {
    return aligned(h * node_row) + aligned(p * out_row) + aligned(2 * lanes + out_row) + aligned(h + out_row) +
           2 * aligned(tile()) + 2 * aligned(chunk * out_row) +
           2 * aligned(rounded(blocks, block_rows) * node_row) +
           aligned(2 * out_row * static_cast<std::int64_t>(sizeof(double) / sizeof(T)));
  }

  void make_basis() const {
    const double step = static_cast<double>(h - 1) / static_cast<double>(p - 1);
    for (std::int64_t a = 0; a < h; ++a) {
      const double x = static_cast<double>(a) / step;
      for (std::int64_t node = 0; node < p; ++node) {
        double value = 1.0;
        for (std::int64_t other = 0; other < p; ++other)
          if (other != node) value *= (x - static_cast<double>(other)) / static_cast<double>(node - other);
        basis[a * node_row + node] = basis_rows[node * out_row + a] = static_cast<T>(value);
      }
    }
  }

  T* spectrum(std::int64_t index) const { return work.array(static_cast<int>(index)); }

  void read_taps(const View& near, const View& skip, std::int64_t d) const {
    read<With::set>(taps, row(near, d), 0, h);
    if (skip) {
      T value;
      read<With::set>(&value, element(skip, d), 0, 1);
      taps[0] += value;
    }
    for (std::int64_t n = 0; n < h; ++n) taps_reversed[n] = taps[h - 1 - n];
  }

  // The spectra of the nodes of m = -(p-1) … p-1, divided by P. Blocks that are d apart are coefficient d.
  void transform_nodes(const View& nodes, std::int64_t d) const {
    for (std::int64_t m = 0; m < 2 * p - 1 && blocks > 1; ++m) {
      Input in{row(nodes, d, m)};
      in.length = blocks - 1;
      in.shift = 1;
      first_pass(*work.plan, in, spectrum(m));
      FilterVisit<T> visit(spectrum(m), T(1) / static_cast<T>(work.plan->points));
      work.run(visit);
    }
  }

  // Calls visit(first block, number of blocks) for each chunk.
  template <class Visit>
  HYENA_INLINE void each_chunk(const Visit& visit) const {
    for (std::int64_t first = 0; first < blocks; first += chunk)
      visit(first, chunk < blocks - first ? chunk : blocks - first);
  }

  // Fills a tile with blocks first … first + count - 1 of a row, and with zeros behind the end of the row.
  void fill(const Row& from, const Row& gate, std::int64_t first, std::int64_t count, T* to) const {
    read_signal(to, from, gate, first * h, rounded(count, block_rows) * h, length);
  }

  void moments(const T* in, std::int64_t first, std::int64_t count, T* far) const {
    for (std::int64_t i = 0; i < count; i += block_rows) {
      for (std::int64_t node = 0; node < p; node += W) {
        Vec<T> sum[block_rows][1] = {};
        add_products<0, 1>(sum, basis + node, node_row, in + i * h, h, 1, 0, h);
        for (int r = 0; r < block_rows; ++r) store(far + (first + i + r) * node_row + node, sum[r][0]);
      }
    }
  }

  // Results of some blocks of a tile: `near` adds the near field to sums of the outputs a, a + 1, ….
  template <class Near>
  HYENA_INLINE void expand(const T* far, std::int64_t first, std::int64_t count, const Near& near) const {
    for (std::int64_t i = 0; i < count; i += block_rows) {
      for (std::int64_t a = 0; a < h; a += lanes) {
        Vec<T> sum[block_rows][vectors] = {};
        near(sum, i, a);
        if (blocks > 1) add_products<0, vectors>(sum, basis_rows + a, out_row, far + (first + i) * node_row, node_row, 1, 0, p);
        for (int r = 0; r < block_rows; ++r)
          for (int v = 0; v < vectors; ++v) store(out + (i + r) * out_row + a + v * W, sum[r][v]);
      }
    }
  }

  void convolve(const T* in, const T* far, std::int64_t first, std::int64_t count) const {
    expand(far, first, count, [&](auto& sum, std::int64_t i, std::int64_t a) {
      // Result a takes samples 0 … a. The second vector of results takes W samples more than the first.
      const std::int64_t both = a + W < h ? a + W : h, all = a + lanes < h ? a + lanes : h;
      add_products<0, vectors>(sum, taps + a, -1, in + i * h, h, 1, 0, both);
      add_products<1, vectors>(sum, taps + a, -1, in + i * h, h, 1, both, all);
    });
  }

  // The transpose of convolve()
  void correlate(const T* in, const T* far, std::int64_t first, std::int64_t count) const {
    expand(far, first, count, [&](auto& sum, std::int64_t i, std::int64_t b) {
      // Result b takes samples b … h - 1.
      const std::int64_t both = b + W < h ? b + W : h;
      add_products<0, 1>(sum, taps_reversed + h - 1 + b, -1, in + i * h, h, 1, b, both);
      add_products<0, vectors>(sum, taps_reversed + h - 1 + b, -1, in + i * h, h, 1, both, h);
    });
  }

  // Adds g[a] x[a - n] of some blocks to the sum of tap n, for all n. The signal stands in `mirrored`.
  void add_near_gradient(const T* g, std::int64_t count) const {
    for (std::int64_t a = 0; a < h; a += block_rows) {
      // Place j of a mirrored block is position h - 1 - j, which is a - n for n = j + a - h + 1.
      const std::int64_t last = a + block_rows < h ? a + block_rows - 1 : h - 1;
      for (std::int64_t j = (h - 1 - last) / lanes * lanes; j < h; j += lanes) {
        Vec<T> sum[block_rows][vectors] = {};
        add_products<0, vectors>(sum, mirrored + j, out_row, g + a, 1, h, 0, count);
        for (int r = 0; r < block_rows && a + r < h; ++r) {
          for (int v = 0; v < vectors; ++v) {
            double* to = near_sums + a + r + j + v * W;
            for (int lane = 0; lane < W; ++lane) to[lane] += sum[r][v][lane];
          }
        }
      }
    }
  }

  void mirror(std::int64_t count) const {
    for (std::int64_t i = 0; i < count; ++i)
      for (std::int64_t j = 0; j < h; ++j) mirrored[i * out_row + j] = signal[i * h + h - 1 - j];
  }

  // Row β of moments, or row α of T: one number for each block
  Row far_row(T* far, std::int64_t node) const {
    return {reinterpret_cast<char*>(far + node), sizeof(T) == 4 ? Dtype::f32 : Dtype::f64, node_row};
  }

  void transform_moments(T* far, std::int64_t spectra) const {
    for (std::int64_t node = 0; node < p; ++node) {
      Input in{far_row(far, node)};
      in.length = blocks;
      first_pass(*work.plan, in, spectrum(spectra + node));
    }
  }

  void transform_back(std::int64_t spectra, T* far) const {
    for (std::int64_t node = 0; node < p; ++node) {
      Output to;
      to.add(far_row(far, node), Row{});
      to.length = blocks;
      last_pass(*work.plan, spectrum(spectra + node), to);
    }
  }

  // Writes the results of a chunk as positions of a row, times a factor if it has data.
  void write_chunk(const Row& to, const Row& factor, std::int64_t first, std::int64_t count) const {
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t at = (first + i) * h;
      write_product(to, factor, at, out + i * out_row, h < length - at ? h : length - at);
    }
  }
};

template <class T>
HYENA_INLINE void add_product(Complex<T>& sum, Complex<T> a, const T* spectrum) {
  const Complex<T> b = load_complex(spectrum), product = times<false>(a, b.re, b.im);
  sum = sum + product;
}

template <class T>
HYENA_INLINE void add_conjugate_product(Complex<T>& sum, Complex<T> a, const T* spectrum) {
  const Complex<T> b = load_complex(spectrum), product = times<true>(a, b.re, b.im);
  sum = sum + product;
}

// For moments X of a signal and G of a gradient, X becomes the far field of the signal and G the transposed one of the
// gradient. Products of both are added to the spectra of the nodes' gradients.
template <class T>
struct FarVisit {
  Arrays<T, 2 * most_nodes> forward, backward;
  std::int64_t p = 0;
  T* const* signal = nullptr;    // p arrays each, null if not needed
  T* const* gradient = nullptr;
  const T* nodes = nullptr;      // spectra of the nodes, and of their gradients: 2p - 1 arrays `stride` apart
  T* node_gradient = nullptr;    // null if not needed
  std::int64_t stride = 0;
  bool accumulate = false;       // node_gradient holds the sum over the rows before
  bool convolve = false, correlate = false;

  HYENA_INLINE void leaf(const Leaf<T>& leaf, std::int64_t at) const {
    constexpr int W = width<T>;
    Complex<T> x[most_nodes][W], g[most_nodes][W];
    for (std::int64_t b = 0; b < p && signal; ++b) leaf.forward(signal[b] + at, x[b]);
    for (std::int64_t a = 0; a < p && gradient; ++a) leaf.forward(gradient[a] + at, g[a]);
    if (node_gradient) {
      for (std::int64_t m = 0; m < 2 * p - 1; ++m) {
        // α - β = m - (p - 1)
        T* sums = node_gradient + m * stride + at;
        const std::int64_t first = m < p ? 0 : m - p + 1, last = m < p ? m : p - 1;
        for (int j = 0; j < W; ++j) {
          Complex<T> sum = accumulate ? load_complex(sums + 2 * j * W) : Complex<T>{};
          for (std::int64_t a = first; a <= last; ++a) {
            const Complex<T> b = x[a + p - 1 - m][j];
            sum = sum + times<true>(g[a][j], b.re, b.im);
          }
          store_complex(sums + 2 * j * W, sum);
        }
      }
    }
    if (convolve) {
      for (std::int64_t a = 0; a < p; ++a) {
        Complex<T> y[W];
        for (int j = 0; j < W; ++j) {
          y[j] = Complex<T>{};
          for (std::int64_t b = 0; b < p; ++b)
            add_product(y[j], x[b][j], nodes + (a - b + p - 1) * stride + at + 2 * j * W);
        }
        leaf.inverse(y, signal[a] + at);
      }
    }
    if (correlate) {
      for (std::int64_t b = 0; b < p; ++b) {
        Complex<T> y[W];
        for (int j = 0; j < W; ++j) {
          y[j] = Complex<T>{};
          for (std::int64_t a = 0; a < p; ++a)
            add_conjugate_product(y[j], g[a][j], nodes + (a - b + p - 1) * stride + at + 2 * j * W);
        }
        leaf.inverse(y, gradient[b] + at);
      }
    }
  }
};

template <class T>
void forward(const FarFieldForward& args, std::int64_t first, std::int64_t last) {
  const std::int64_t spectra = args.nodes.size[1], p = (spectra + 1) / 2;
  const FarWork<T> far(args.u, args.near, args.nodes, static_cast<int>(spectra + p));
  FarVisit<T> visit;
  for (std::int64_t node = 0; node < p; ++node) {
    visit.forward.add(far.spectrum(spectra + node));
    visit.backward.add(far.spectrum(spectra + node));
  }
  visit.p = p;
  visit.signal = visit.forward.data;
  visit.nodes = far.spectrum(0);
  visit.stride = far.work.stride;
  visit.convolve = true;
  for (std::int64_t d = first; d < last; ++d) {
    far.read_taps(args.near, args.skip, d);
    far.transform_nodes(args.nodes, d);
    for (std::int64_t b = 0; b < args.u.size[0]; ++b) {
      const Row u = row(args.u, b, d), pre = row_of(args.pre_gate, b, d), post = row_of(args.post_gate, b, d);
      if (far.blocks > 1) {
        far.each_chunk([&](std::int64_t at, std::int64_t count) {
          far.fill(u, pre, at, count, far.signal);
          far.moments(far.signal, at, count, far.signal_far);
        });
        far.transform_moments(far.signal_far, spectra);
        far.work.run(visit);
        far.transform_back(spectra, far.signal_far);
      }
      far.each_chunk([&](std::int64_t at, std::int64_t count) {
        far.fill(u, pre, at, count, far.signal);
        far.convolve(far.signal, far.signal_far, at, count);
        far.write_chunk(row(args.y, b, d), post, at, count);
      });
    }
  }
}

template <class T>
void write_node_gradient(const FarWork<T>& far, const View& dnodes, std::int64_t d, std::int64_t m, T* spectrum,
                         bool empty) {
  const std::int64_t used = empty ? 0 : far.blocks - 1;
  if (used > 0) {
    InverseVisit<T> inverse(spectrum);
    far.work.run(inverse);
    Output to;
    to.add(row(dnodes, d, m), Row{});
    to.length = used;
    to.shift = 1;
    to.scale = 1.0 / static_cast<double>(far.work.plan->points);
    last_pass(*far.work.plan, spectrum, to);
  }
  constexpr std::int64_t at_a_time = 64;
  const T zeros[at_a_time] = {};
  for (std::int64_t t = used; t < dnodes.size[2]; t += at_a_time)
    write(row(dnodes, d, m), t, zeros, at_a_time < dnodes.size[2] - t ? at_a_time : dnodes.size[2] - t);
}

template <class T>
void backward(const FarFieldBackward& args, std::int64_t first, std::int64_t last) {
  const std::int64_t spectra = args.nodes.size[1], p = (spectra + 1) / 2, batch = args.u.size[0];
  const bool for_near = static_cast<bool>(args.dnear), for_gate = static_cast<bool>(args.dpost_gate);
  const bool for_signal = args.du || args.dpre_gate;
  const FarWork<T> far(args.u, args.near, args.nodes, static_cast<int>(2 * spectra + 2 * p));
  // A filter without far field has nodes of length 0, and then no gradient of nodes is asked for by a pointer.
  const bool for_nodes = args.dnodes && far.blocks > 1;
  const std::int64_t at_signal = 2 * spectra, at_gradient = at_signal + p;
  T *signals[most_nodes], *gradients[most_nodes];
  FarVisit<T> visit;
  const bool use_signal = far.blocks > 1 && (for_nodes || for_gate);
  const bool use_gradient = far.blocks > 1 && (for_nodes || for_signal);
  for (std::int64_t node = 0; node < p; ++node) {
    signals[node] = far.spectrum(at_signal + node);
    gradients[node] = far.spectrum(at_gradient + node);
    if (use_signal) visit.forward.add(signals[node]);
    if (use_gradient) visit.forward.add(gradients[node]);
    if (for_gate) visit.backward.add(signals[node]);
    if (for_signal) visit.backward.add(gradients[node]);
  }
  visit.p = p;
  if (use_signal) visit.signal = signals;
  if (use_gradient) visit.gradient = gradients;
  visit.nodes = far.spectrum(0);
  if (for_nodes) visit.node_gradient = far.spectrum(spectra);
  visit.stride = far.work.stride;
  visit.convolve = for_gate;
  visit.correlate = for_signal;
  for (std::int64_t d = first; d < last; ++d) {
    far.read_taps(args.near, args.skip, d);
    if (for_signal || for_gate) far.transform_nodes(args.nodes, d);
    std::memset(far.near_sums, 0, 2 * far.out_row * sizeof(double));
    double skip = 0.0;
    for (std::int64_t b = 0; b < batch; ++b) {
      const Row u = row(args.u, b, d), pre = row_of(args.pre_gate, b, d);
      const Row dy = row(args.dy, b, d), post = row_of(args.post_gate, b, d);
      if (args.dskip) skip += skip_gradient<T>(u, pre, dy, post, far.length);
      if (use_signal || use_gradient) {
        far.each_chunk([&](std::int64_t at, std::int64_t count) {
          if (use_signal) {
            far.fill(u, pre, at, count, far.signal);
            far.moments(far.signal, at, count, far.signal_far);
          }
          if (use_gradient) {
            far.fill(dy, post, at, count, far.gradient);
            far.moments(far.gradient, at, count, far.gradient_far);
          }
        });
        if (use_signal) far.transform_moments(far.signal_far, at_signal);
        if (use_gradient) far.transform_moments(far.gradient_far, at_gradient);
        visit.accumulate = b > 0;
        far.work.run(visit);
        if (for_gate) far.transform_back(at_signal, far.signal_far);
        if (for_signal) far.transform_back(at_gradient, far.gradient_far);
      }
      if (!for_near && !for_gate && !for_signal) continue;
      far.each_chunk([&](std::int64_t at, std::int64_t count) {
        // All is read before anything is written: a gradient may take the place of its tensor.
        if (for_near || for_gate) far.fill(u, pre, at, count, far.signal);
        if (for_near || for_signal) far.fill(dy, post, at, count, far.gradient);
        if (for_near) {
          far.mirror(count);
          far.add_near_gradient(far.gradient, count);
        }
        if (for_gate) {
          far.convolve(far.signal, far.signal_far, at, count);
          far.write_chunk(row(args.dpost_gate, b, d), dy, at, count);
        }
        if (for_signal) {
          far.correlate(far.gradient, far.gradient_far, at, count);
          // The gradient of the gate is first: it reads the signal, whose place that of the signal may take.
          if (args.dpre_gate) far.write_chunk(row(args.dpre_gate, b, d), u, at, count);
          if (args.du) far.write_chunk(row(args.du, b, d), pre, at, count);
        }
      });
    }
    if (args.dskip) write(element(args.dskip, d), 0, &skip, 1);
    if (for_near) write(row(args.dnear, d), 0, far.near_sums + far.h - 1, far.h);
    if (!args.dnodes) continue;
    for (std::int64_t m = 0; m < spectra; ++m)
      write_node_gradient(far, args.dnodes, d, m, far.spectrum(spectra + m), batch == 0);
  }
}

void forward_any(const FarFieldForward& args, std::int64_t first, std::int64_t last) {
  args.wide ? forward<double>(args, first, last) : forward<float>(args, first, last);
}

void backward_any(const FarFieldBackward& args, std::int64_t first, std::int64_t last) {
  args.wide ? backward<double>(args, first, last) : backward<float>(args, first, last);
}

}  // namespace

const FarFieldKernels HYENA_KERNELS(far_field) = {forward_any, backward_any};

}  // namespace hyena
