// Convolutions of rows with filters that are much shorter than the row: without a transform of the whole row.
//
// Few taps are multiplied directly: lanes of vectors are neighbouring results, and some segments of a chunk of the row
// share each load of taps (toeplitz.inl).
//
// More taps take transforms of blocks of P samples, with P of the order of K: the linear convolution of a block and the
// filter has at most 2P - 1 results, which are the real and the imaginary parts modulo z^P - i. What lies behind a block
// is added to the next one (overlap-add). The gradient of the signal is the transpose: what lies before a block is added
// to the one before. The gradient of the filter is the sum over blocks of G conj(X + shift), where `shift` stands for the
// block before: it is P samples away, and z^P is i.
#pragma once

#include "fftconv.h"
#include "row_work.inl"
#include "toeplitz.inl"

namespace hyena {
namespace {

// How a convolution of `length` positions and `taps` taps runs. The limits are measured (docs/kernels/cpu.md).
enum class Way { direct, blocks, whole };

constexpr std::int64_t most_direct_taps = HYENA_VECTOR_BYTES == 64 ? 128 : HYENA_VECTOR_BYTES == 32 ? 64 : 32;
constexpr std::int64_t least_block = 2048, least_blocks = 4;

// Samples of a block: a power of two that holds the filter
HYENA_INLINE std::int64_t block_points(std::int64_t taps) {
  std::int64_t points = least_block;
  while (points < taps) points *= 2;
  return points;
}

HYENA_INLINE Way way_of(std::int64_t length, std::int64_t taps) {
  if (length >= least_blocks * block_points(taps)) return Way::blocks;
  return Way::whole;
}

HYENA_INLINE Way way_forward(std::int64_t length, std::int64_t taps) {
  if (taps <= most_direct_taps && length >= 4 * taps && length >= 1024) return Way::direct;
  return way_of(length, taps);
}

template <class T>
struct DirectWork {
  static constexpr std::int64_t W = width<T>;
  static constexpr int vectors = 2;
  static constexpr std::int64_t lanes = vectors * W;

  std::int64_t length, count, tap, segment, chunk;
  T *taps, *samples, *results;

  DirectWork(std::int64_t length, std::int64_t count, std::int64_t tap) : length(length), count(count), tap(tap) {
    const std::int64_t all = block_rows * lanes;
    segment = (length + all - 1) / all * lanes;
    if (segment > 512) segment = 512;
    chunk = block_rows * segment;
    const std::int64_t unit = 64 / static_cast<std::int64_t>(sizeof(T));
    const auto whole = [unit](std::int64_t n) { return (n + unit - 1) / unit * unit; };
    const std::int64_t of_taps = whole(2 * lanes + count + lanes), of_samples = whole(chunk + count + lanes);
    T* memory = static_cast<T*>(scratch(For::rows, (of_taps + of_samples + chunk) * sizeof(T)));
    std::memset(memory, 0, (of_taps + of_samples) * sizeof(T));
    taps = memory + 2 * lanes;
    samples = memory + of_taps;
    results = samples + of_samples;
  }
  DirectWork(const DirectWork&) = delete;
  DirectWork& operator=(const DirectWork&) = delete;
  ~DirectWork() { trim_scratch(For::rows); }

  void read_taps(const View& k, const View& skip, std::int64_t d) const {
    read<With::set>(taps, row(k, d), 0, count);
    if (!skip) return;
    T value;
    read<With::set>(&value, element(skip, d), 0, 1);
    taps[tap] += value;
  }

  // Sample i of the tile is position first + tap - (count - 1) + i. The tile keeps the last count - 1 samples of the
  // chunk before, because results may take the place of the signal.
  void read_samples(const Row& signal, const Row& gate, std::int64_t first) const {
    const std::int64_t before = count - 1;
    if (first == 0)
      read_signal(samples, signal, gate, tap - before, before, length);
    else
      std::memmove(samples, samples + chunk, before * sizeof(T));
    read_signal(samples + before, signal, gate, first + tap, chunk, length);
  }

  void convolve() const {
    for (std::int64_t a = 0; a < segment; a += lanes) {
      Vec<T> sum[block_rows][vectors] = {};
      // Result a takes samples a … a + count - 1.
      const T* from = taps + a + count - 1;
      const std::int64_t both = a + W, one = both + count - 1;
      add_products<0, 1>(sum, from, -1, samples, segment, 1, a, both);
      add_products<0, vectors>(sum, from, -1, samples, segment, 1, both, one);
      add_products<1, vectors>(sum, from, -1, samples, segment, 1, one, one + W);
      for (int r = 0; r < block_rows; ++r)
        for (int v = 0; v < vectors; ++v) store(results + r * segment + a + v * W, sum[r][v]);
    }
  }
};

template <class T>
void forward_directly(const FftconvForward& args, std::int64_t first, std::int64_t last) {
  const DirectWork<T> work(args.u.size[2], args.k.size[1], args.tap);
  for (std::int64_t d = first; d < last; ++d) {
    work.read_taps(args.k, args.skip, d);
    for (std::int64_t b = 0; b < args.u.size[0]; ++b) {
      for (std::int64_t t = 0; t < work.length; t += work.chunk) {
        work.read_samples(row(args.u, b, d), row_of(args.pre_gate, b, d), t);
        work.convolve();
        const std::int64_t n = work.chunk < work.length - t ? work.chunk : work.length - t;
        write_product(row(args.y, b, d), row_of(args.post_gate, b, d), t, work.results, n);
      }
    }
  }
}

template <class T>
Row memory_row(T* data) {
  return {reinterpret_cast<char*>(data), sizeof(T) == 4 ? Dtype::f32 : Dtype::f64, 1};
}

// The results of one row, block by block: what lies behind a block stays here for the next one.
template <class T>
struct Stream {
  std::int64_t taps, tap, length;
  T *block, *behind;  // 2P and K numbers

  void begin() const { std::memset(behind, 0, taps * sizeof(T)); }

  // Takes the block of samples first … first + n - 1 back from its transform, and writes the results that are complete.
  void take(const Plan<T>& plan, const T* spectrum, std::int64_t first, std::int64_t n, const Row& to,
            const Row& factor) const {
    Output out;
    out.add(memory_row(block), Row{});
    out.length = n + taps - 1;
    last_pass(plan, spectrum, out);
    for (std::int64_t i = 0; i < taps - 1; ++i) block[i] += behind[i];
    put(block, first, n, to, factor);
    std::memcpy(behind, block + n, (taps - 1) * sizeof(T));
  }

  void end(const Row& to, const Row& factor) const { put(behind, length, tap, to, factor); }

  // Coefficients first … of the linear convolution: coefficient t + tap is result t.
  void put(const T* from, std::int64_t first, std::int64_t n, const Row& to, const Row& factor) const {
    const std::int64_t at = first - tap, skipped = at < 0 ? -at : 0, end = at + n > length ? length - at : n;
    if (skipped < end) write_product(to, factor, at + skipped, from + skipped, end - skipped);
  }
};

// Samples first … first + P - 1 of a row, of which sample t is coefficient t + shift of all
HYENA_INLINE Input block_of(const Row& signal, const Row& gate, std::int64_t first, std::int64_t points,
                            std::int64_t shift, std::int64_t length) {
  Input in{signal, gate};
  in.shift = shift - first;
  in.length = length < first + points - shift ? length : first + points - shift;
  return in;
}

template <class T>
void forward_by_blocks(const FftconvForward& args, std::int64_t first, std::int64_t last) {
  const std::int64_t length = args.u.size[2], taps = args.k.size[1], points = block_points(taps);
  const Work<T> work(points, 2, 2 * points + taps);
  T *signal = work.array(0), *filter = work.array(1);
  const Stream<T> stream{taps, args.tap, length, work.behind(), work.behind() + 2 * points};
  for (std::int64_t d = first; d < last; ++d) {
    transform_filter(work, args.k, args.skip, d, args.tap, filter);
    for (std::int64_t b = 0; b < args.u.size[0]; ++b) {
      const Row y = row(args.y, b, d), post = row_of(args.post_gate, b, d);
      stream.begin();
      for (std::int64_t t = 0; t < length; t += points) {
        first_pass(*work.plan, block_of(row(args.u, b, d), row_of(args.pre_gate, b, d), t, points, 0, length), signal);
        ConvolveVisit<T> visit(signal, filter);
        work.run(visit);
        stream.take(*work.plan, signal, t, points < length - t ? points : length - t, y, post);
      }
      stream.end(y, post);
    }
  }
}

// As GradientVisit, for one block. The gradient of the filter takes the signal of the block before as well.
template <class T>
struct BlockVisit {
  Arrays<T, 2> forward, backward;
  T *signal, *gradient;  // null if not needed
  const T* filter;
  T *filter_gradient, *before;  // null if not needed; `before` is the spectrum of the signal of the block before
  bool accumulate;
  bool convolve, correlate;

  HYENA_INLINE void leaf(const Leaf<T>& leaf, std::int64_t at) const {
    constexpr int W = width<T>;
    Complex<T> x[W], g[W];
    if (signal) leaf.forward(signal + at, x);
    if (gradient) leaf.forward(gradient + at, g);
    if (filter_gradient) {
#pragma GCC unroll 16
      for (int j = 0; j < W; ++j) {
        const Complex<T> last = load_complex(before + at + 2 * j * W);
        // conj(x) + i conj(last): the block before lies P samples back, and z^P is i.
        Complex<T> sum = times<false>(g[j], x[j].re + last.im, last.re - x[j].im);
        if (accumulate) sum = load_complex(filter_gradient + at + 2 * j * W) + sum;
        store_complex(filter_gradient + at + 2 * j * W, sum);
        store_complex(before + at + 2 * j * W, x[j]);
      }
    }
    if (correlate) {
      multiply<true>(g, filter + at);
      leaf.inverse(g, gradient + at);
    }
    if (convolve) {
      multiply<false>(x, filter + at);
      leaf.inverse(x, signal + at);
    }
  }
};

template <class T>
void write_filter_gradient(const Work<T>& work, const FftconvBackward& args, std::int64_t d, T* spectrum) {
  InverseVisit<T> inverse(spectrum);
  if (args.u.size[0] == 0) std::memset(spectrum, 0, work.stride * sizeof(T));
  work.run(inverse);
  Output out;
  out.add(row(args.dk, d), Row{});
  out.length = args.k.size[1];
  out.scale = 1.0 / static_cast<double>(work.plan->points);
  last_pass(*work.plan, spectrum, out);
}

template <class T>
void backward_by_blocks(const FftconvBackward& args, std::int64_t first, std::int64_t last) {
  const std::int64_t length = args.u.size[2], taps = args.k.size[1], batch = args.u.size[0];
  const std::int64_t points = block_points(taps), tap = args.tap;
  const bool for_filter = static_cast<bool>(args.dk), for_gate = static_cast<bool>(args.dpost_gate);
  const bool for_signal = args.du || args.dpre_gate;
  const Work<T> work(points, 5, 5 * points + taps);
  T *signal = work.array(0), *gradient = work.array(1), *filter = work.array(2);
  const Stream<T> stream{taps, tap, length, work.behind(), work.behind() + 2 * points};
  T *of_block = stream.behind + taps, *pending = of_block + 2 * points;
  BlockVisit<T> visit{};
  visit.filter = filter;
  visit.convolve = for_gate;
  visit.correlate = for_signal;
  if (for_filter) visit.filter_gradient = work.array(3), visit.before = work.array(4);
  if (for_filter || for_gate) visit.forward.add(visit.signal = signal);
  if (for_filter || for_signal) visit.forward.add(visit.gradient = gradient);
  if (for_signal) visit.backward.add(gradient);
  if (for_gate) visit.backward.add(signal);
  for (std::int64_t d = first; d < last; ++d) {
    if (for_signal || for_gate) transform_filter(work, args.k, args.skip, d, tap, filter);
    double skip = 0.0;
    for (std::int64_t b = 0; b < batch; ++b) {
      const Row u = row(args.u, b, d), pre = row_of(args.pre_gate, b, d);
      const Row dy = row(args.dy, b, d), post = row_of(args.post_gate, b, d);
      if (args.dskip) skip += skip_gradient<T>(u, pre, dy, post, length);
      if (!visit.signal && !visit.gradient) continue;
      stream.begin();
      if (for_filter) std::memset(visit.before, 0, work.stride * sizeof(T));
      // Result t of the gradient of the signal takes coefficients t … t + K - 1 of the gradient, whose coefficient
      // t + tap is dy[t]. So a block of results is complete when the next block of coefficients is there.
      const auto finish = [&](std::int64_t t, bool more) {
        for (std::int64_t i = 0; more && i < points; ++i) pending[i] -= of_block[points + i];
        const std::int64_t n = points < length - t ? points : length - t;
        if (n <= 0) return;
        // The gate's gradient is first: it reads the signal, whose place that of the signal may take.
        if (args.dpre_gate) write_product(row(args.dpre_gate, b, d), u, t, pending, n);
        if (args.du) write_product(row(args.du, b, d), pre, t, pending, n);
      };
      std::int64_t t = 0;
      for (; t < length + tap; t += points) {
        if (visit.signal) first_pass(*work.plan, block_of(u, pre, t, points, 0, length), signal);
        if (visit.gradient) first_pass(*work.plan, block_of(dy, post, t, points, tap, length), gradient);
        visit.accumulate = b > 0 || t > 0;
        work.run(visit);
        if (for_gate && t < length)
          stream.take(*work.plan, signal, t, points < length - t ? points : length - t, row(args.dpost_gate, b, d), dy);
        if (!for_signal) continue;
        Output out;
        out.add(memory_row(of_block), Row{});
        out.length = 2 * points;
        last_pass(*work.plan, gradient, out);
        if (t > 0) finish(t - points, true);
        std::memcpy(pending, of_block, points * sizeof(T));
      }
      if (for_gate) stream.end(row(args.dpost_gate, b, d), dy);
      if (for_signal) finish(t - points, false);
    }
    if (args.dskip) write(element(args.dskip, d), 0, &skip, 1);
    if (for_filter) write_filter_gradient(work, args, d, work.array(3));
  }
}

}  // namespace
}  // namespace hyena
