#include "fftconv_passes.h"

#include <type_traits>

#include "row_convolution.cuh"
#include "row_memory.cuh"

namespace hyena {
namespace {

// The plans of columns have threads per column, columns per block, and radices. Every number of rows is a multiple of
// the columns per block.
using Columns4 = ColumnPlan<1, 256, 4>;
using Columns8 = ColumnPlan<1, 128, 8>;
using Columns16 = ColumnPlan<1, 128, 16>;
using Columns32 = ColumnPlan<4, 64, 8, 4>;
using Columns64 = ColumnPlan<8, 32, 8, 8>;
using Columns128 = ColumnPlan<8, 32, 16, 8>;
using Columns256 = ColumnPlan<16, 16, 16, 16>;
using Columns512 = ColumnPlan<32, 16, 16, 8, 4>;

template <class F>
bool with_column_plan(int64_t points, F&& f) {
  switch (points) {
    case 4: f(Columns4()); return true;
    case 8: f(Columns8()); return true;
    case 16: f(Columns16()); return true;
    case 32: f(Columns32()); return true;
    case 64: f(Columns64()); return true;
    case 128: f(Columns128()); return true;
    case 256: f(Columns256()); return true;
    case 512: f(Columns512()); return true;
    default: return false;
  }
}

template <class F>
bool with_inner_plan(int64_t points, F&& f) {
  switch (points) {
    case 2560: f(Unweighted<Rows2560>()); return true;
    case 3072: f(Unweighted<Rows3072>()); return true;
    case 4096: f(Unweighted<Rows4096>()); return true;
    case 5120: f(Unweighted<Rows5120>()); return true;
    default: return false;
  }
}

constexpr int64_t inner_sizes[] = {4096, 3072, 5120, 2560}, shortest_inner = 2560;
constexpr int64_t fewest_columns = 4, most_columns = 512;

// Shared memory of a block of columns. A plan with a single stage needs none.
template <class Plan>
constexpr int column_bytes = Plan::stages > 1 ? Plan::plane * static_cast<int>(sizeof(Complex<float>)) : 0;

// Points per row of a transform of P points, or 0 if there is none
int64_t inner_points(int64_t points) {
  for (const int64_t inner : inner_sizes) {
    const int64_t columns = points / inner;
    if (columns * inner == points && with_column_plan(columns, [](auto) {})) return inner;
  }
  return 0;
}

// One of up to three tensors (B, D, L) of a launch. Its rows are numbered after those of the tensor before.
struct ColumnSource {
  View row, gate;
  int64_t batch, shift;
};

struct ColumnTarget {
  View row, factor, row2, factor2;
  int64_t batch, shift;
};

template <class Tensors>
struct Columns {
  Tensors tensors[3];
  Complex<float>* scratch[3];  // for each tensor, (B, D, P)
  View skip;                   // belongs to the first source
  int64_t tap, channels;
  int rows;  // per channel: the distance between the points of a column
};

// A thread's tensor, row and column
struct Place {
  int tensor;
  int64_t b, c;
  ColumnOf at;
};

template <class Plan, class Tensors>
HYENA_DEVICE Place place_of_thread(const Columns<Tensors>& a) {
  // All numbers fit 32 bits, where a division takes a tenth of the instructions.
  const unsigned tiles = a.rows / Plan::rows, channels = static_cast<unsigned>(a.channels);
  unsigned row = blockIdx.x / tiles;
  int tensor = 0;
  while (tensor < 2 && row >= a.tensors[tensor].batch * channels)
    row -= static_cast<unsigned>(a.tensors[tensor++].batch * channels);
  const int column = static_cast<int>(blockIdx.x % tiles * Plan::rows + threadIdx.x % Plan::rows);
  return {tensor, row / channels, row % channels, {a.rows, column, 1.0f / static_cast<float>(a.rows)}};
}

// Calls f(value, index in the scratch of a row) for the spectrum of a column.
template <class Plan, class At, class F>
HYENA_DEVICE void for_column(int thread, Complex<float>* v, const At& at, F&& f) {
  for_butterflies<Plan, Plan::stages - 1>(thread, v, [&](int b, int, Complex<float>* x) {
    HYENA_UNROLL
    for (int j = 0; j < Plan::radix(Plan::stages - 1); ++j) f(x[j], at.place(b * Plan::radix(Plan::stages - 1) + j));
  });
}

// A plan for columns, and the number of rows if it is a constant, else 0. A constant saves instructions for each
// address but needs registers. Plans with fewer values per thread would lose blocks to that.
template <class Plan, int Rows>
struct OfRows : Plan {
  static constexpr int column_rows = Rows;
};

template <class Plan>
constexpr bool takes_constant_rows = Plan::values == 16;

// How many blocks a multiprocessor should hold. With constant rows this bounds a thread to 80 registers; 0 is no bound.
template <class Plan>
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr int column_blocks = 0;
#else
constexpr int column_blocks = Plan::column_rows && Plan::block <= 256 ? 65536 / (80 * Plan::block) : 0;
#endif

template <class Plan>
HYENA_DEVICE auto column_of(const ColumnOf& at) {
  if constexpr (Plan::column_rows > 0)
    return ColumnOfRows<Plan::column_rows>{at.column};
  else
    return at;
}

template <class Plan>
__global__ void __launch_bounds__(Plan::block, column_blocks<Plan>)
    fftconv_columns_kernel(const __grid_constant__ Columns<ColumnSource> a) {
  HYENA_DYNAMIC_SHARED(shared);
  const Place place = place_of_thread<Plan>(a);
  const auto at = column_of<Plan>(place.at);
  const ColumnSource& tensor = a.tensors[place.tensor];
  const bool skips = place.tensor == 0 && a.skip.data;
  RowSource source = {row_of(tensor.row, place.b, place.c), row_of(tensor.gate, place.b, place.c),
                      static_cast<int>(tensor.row.size[2]), static_cast<int>(tensor.shift), a.tap != 0, 0.0f,
                      skips ? static_cast<int>(a.tap) : -1};
  if (skips) source.skip = load_element({a.skip.data, a.skip.stride[0], a.skip.dtype}, place.c);
  const int thread = static_cast<int>(threadIdx.x) / Plan::rows;
  Complex<float>* planes = reinterpret_cast<Complex<float>*>(shared) + threadIdx.x % Plan::rows;
  Complex<float> v[Plan::values];
  load_row<Plan>(thread, v, source, at);
  transform<Plan>(thread, v, planes, at);
  Complex<float>* rows =
      a.scratch[place.tensor] + (place.b * a.channels + place.c) * at.distance(Plan::points);
  for_column<Plan>(thread, v, at, [&](const Complex<float>& value, int i) { rows[i] = value; });
}

template <class Plan>
__global__ void __launch_bounds__(Plan::block)
    fftconv_uncolumns_kernel(const __grid_constant__ Columns<ColumnTarget> a) {
  HYENA_DYNAMIC_SHARED(shared);
  const Place place = place_of_thread<Plan>(a);
  const ColumnTarget& tensor = a.tensors[place.tensor];
  const RowTarget target = {row_of(tensor.row, place.b, place.c),     row_of(tensor.factor, place.b, place.c),
                            row_of(tensor.row2, place.b, place.c),    row_of(tensor.factor2, place.b, place.c),
                            static_cast<int>(tensor.row.size[2]), static_cast<int>(tensor.shift), a.tap != 0};
  const int thread = static_cast<int>(threadIdx.x) / Plan::rows;
  Complex<float>* planes = reinterpret_cast<Complex<float>*>(shared) + threadIdx.x % Plan::rows;
  const Complex<float>* rows =
      a.scratch[place.tensor] + (place.b * a.channels + place.c) * place.at.distance(Plan::points);
  Complex<float> v[Plan::values];
  for_column<Plan>(thread, v, place.at, [&](Complex<float>& value, int i) { value = rows[i]; });
  inverse_transform<Plan>(thread, v, planes, place.at);
  store_row<Plan>(thread, v, target, place.at);
}

struct Inner {
  Complex<float>*filter, *signal, *gradient;  // (D, C, R), (B, D, C, R); results replace them
  int64_t batch, stride;                      // stride: points per batch entry
  Wanted wants;
};

template <class Plan>
struct RowsInScratch {
  const Inner& a;

  // Written as sums with an offset. Otherwise the compiler would keep one pointer for each of them.
  HYENA_DEVICE Complex<float>* row(Kind kind, int64_t b) const {
    Complex<float>* base = kind == Kind::signal ? a.signal : kind == Kind::gradient ? a.gradient : a.filter;
    const int64_t entry = kind == Kind::signal || kind == Kind::gradient ? b * a.stride : 0;
    return base + entry + static_cast<int64_t>(blockIdx.x) * Plan::points;
  }

  HYENA_DEVICE void load(Kind kind, int64_t b, int thread, Complex<float>* v) const {
    const Complex<float>* from = row(kind, b);
    for_butterflies<Plan, 0>(thread, v, [&](int i, int, Complex<float>* x) {
      HYENA_UNROLL
      for (int j = 0; j < Plan::radix(0); ++j) x[j] = from[i + j * Stage<Plan, 0>::distance];
    });
  }

  HYENA_DEVICE void store(Kind kind, int64_t b, int thread, Complex<float>* v) const {
    Complex<float>* to = row(kind, b);
    for_butterflies<Plan, 0>(thread, v, [&](int i, int, Complex<float>* x) {
      HYENA_UNROLL
      for (int j = 0; j < Plan::radix(0); ++j) to[i + j * Stage<Plan, 0>::distance] = x[j];
    });
  }
};

// Block x takes the rows of one column of one channel.
template <class Plan>
__global__ void __launch_bounds__(Plan::block, row_blocks<Plan, RowKernel::scratch>)
    fftconv_inner_kernel(const __grid_constant__ Inner a) {
  HYENA_DYNAMIC_SHARED(shared);
  convolve<Plan>(RowsInScratch<Plan>{a}, a.wants, 0, static_cast<int>(a.batch), a.batch > 1,
                 reinterpret_cast<Complex<float>*>(shared),
                 reinterpret_cast<Complex<float>*>(shared + row_planes_bytes<Plan>));
}

// Calls f(plan) with the plan of columns for this number of rows.
template <class Plan, class F>
void with_column_rows(int rows, F&& f) {
  if constexpr (takes_constant_rows<Plan>) {
    const auto of_rows = [&](auto inner) {
      constexpr int points = decltype(inner)::points;
      // Only the plan with the fewest columns has the shortest rows. A longer transform has rows of twice the length.
      if constexpr (points != shortest_inner)
        f(OfRows<Plan, points>());
      else
        throw std::invalid_argument("fftconv: no columns of rows of " + std::to_string(points) + " points");
    };
    with_inner_plan(rows, of_rows);
  } else {
    f(OfRows<Plan, 0>());
  }
}

template <class Tensors>
void launch_columns(const Columns<Tensors>& columns, int64_t points, Stream stream) {
  int64_t rows = 0;
  for (const Tensors& tensor : columns.tensors) rows += tensor.batch * columns.channels;
  if (!rows) return;
  with_column_plan(points / columns.rows, [&](auto plan) {
    using Plan = decltype(plan);
    const int64_t blocks = rows * (columns.rows / Plan::rows);
    if (blocks > largest_grid) throw std::invalid_argument("fftconv: too many rows for one launch");
    const unsigned grid = static_cast<unsigned>(blocks);
    if constexpr (std::is_same_v<Tensors, ColumnSource>)
      with_column_rows<Plan>(columns.rows, [&](auto rows_of_plan) {
        HYENA_LAUNCH(fftconv_columns_kernel<decltype(rows_of_plan)>, grid, Plan::block, column_bytes<Plan>, stream,
                     columns);
      });
    else
      HYENA_LAUNCH(fftconv_uncolumns_kernel<Plan>, grid, Plan::block, column_bytes<Plan>, stream, columns);
  });
}

// Channels first … first + count - 1 of dimension `dim`. An absent tensor stays absent.
View channels_of(View view, int dim, int64_t first, int64_t count) {
  if (!view) return view;
  const int64_t size = view.dtype == Dtype::f64 ? 8 : view.dtype == Dtype::f32 ? 4 : 2;
  view.data = static_cast<char*>(view.data) + first * view.stride[dim] * size;
  view.size[dim] = count;
  return view;
}

// A tensor (D, K) as (1, D, K)
View with_batch(const View& view) {
  View three = view;
  for (int i : {1, 0}) {
    three.size[i + 1] = view.size[i];
    three.stride[i + 1] = view.stride[i];
  }
  three.size[0] = 1;
  three.stride[0] = 0;
  return three;
}

// Takes one slice of channels through the three passes.
void convolve_slice(const FftconvRows& a, Complex<float>* scratch, int64_t points, int64_t inner, Stream stream) {
  const int64_t batch = a.u.size[0], channels = a.u.size[1];
  const Wanted wants = {a.result.data != nullptr, a.du.data || a.dpre_gate.data, a.sums.data != nullptr};
  Complex<float>*filter = scratch, *signal = filter + channels * points, *gradient = signal + batch * channels * points;
  const bool takes_filter = wants.result || wants.signal, takes_signal = wants.result || wants.filter;
  const bool takes_gradient = wants.signal || wants.filter;

  Columns<ColumnSource> in = {};
  Columns<ColumnTarget> out = {};
  in.tensors[0] = {with_batch(a.k), View(), takes_filter ? 1 : 0, 0};
  in.tensors[1] = {a.u, a.pre_gate, takes_signal ? batch : 0, 0};
  in.tensors[2] = {a.dy, a.post_gate, takes_gradient ? batch : 0, a.tap};
  in.skip = a.skip;
  in.tap = out.tap = a.tap;
  out.tensors[0] = {a.sums, View(), View(), View(), wants.filter ? 1 : 0, 0};
  out.tensors[1] = {a.result, a.factor, View(), View(), wants.result ? batch : 0, a.tap};
  out.tensors[2] = {a.du, a.pre_gate, a.dpre_gate, a.u, wants.signal ? batch : 0, 0};
  if (!a.du) out.tensors[2] = {a.dpre_gate, a.u, View(), View(), wants.signal ? batch : 0, 0};
  for (int i : {0, 1, 2}) in.scratch[i] = out.scratch[i] = i == 0 ? filter : i == 1 ? signal : gradient;
  in.channels = out.channels = channels;
  in.rows = out.rows = static_cast<int>(inner);

  launch_columns(in, points, stream);
  with_inner_plan(inner, [&](auto plan) {
    using Plan = decltype(plan);
    const Inner args = {filter, signal, gradient, batch, channels * points, wants};
    const int64_t blocks = channels * (points / inner);
    if (blocks > largest_grid) throw std::invalid_argument("fftconv: too many rows for one launch");
    const int spectra = !wants.filter ? 0 : batch > 1 ? 2 : 1;
    const int shared = row_planes_bytes<Plan> + spectra * row_spectrum_bytes<Plan>;
    HYENA_LAUNCH(fftconv_inner_kernel<Plan>, static_cast<unsigned>(blocks), Plan::block, shared, stream, args);
  });
  launch_columns(out, points, stream);
}

}  // namespace

int64_t fftconv_passes_points(int64_t length) {
  int64_t best = 0;
  for (int64_t columns = fewest_columns; columns <= most_columns; columns *= 2)
    for (const int64_t inner : inner_sizes)
      if (columns * inner >= length && (!best || columns * inner < best)) best = columns * inner;
  return best;
}

int64_t fftconv_passes_shared(int64_t points, int64_t spectra) {
  int64_t bytes = 0;
  with_inner_plan(inner_points(points), [&](auto plan) {
    using Plan = decltype(plan);
    bytes = row_planes_bytes<Plan> + spectra * row_spectrum_bytes<Plan>;
  });
  return bytes;
}

void fftconv_passes(const FftconvPasses& args, int64_t points, Stream stream) {
  const int64_t inner = inner_points(points);
  if (!inner) throw std::invalid_argument("fftconv: no transform of " + std::to_string(points) + " points");
  const FftconvRows& a = args.rows;
  const int64_t batch = a.u.size[0], channels = a.u.size[1];
  const int64_t slice = args.scratch.size[0] / (1 + (a.dy ? 2 : 1) * batch);
  if (slice < 1 || args.scratch.size[1] != 2 * points) throw std::invalid_argument("fftconv: scratch is too small");
  for (int64_t first = 0; first < channels; first += slice) {
    const int64_t count = channels - first < slice ? channels - first : slice;
    FftconvRows part = a;
    for (View* view : {&part.result, &part.factor, &part.du, &part.dpre_gate, &part.u, &part.pre_gate, &part.dy,
                       &part.post_gate, &part.sums})
      *view = channels_of(*view, 1, first, count);
    part.k = channels_of(a.k, 0, first, count);
    part.skip = channels_of(a.skip, 0, first, count);
    convolve_slice(part, static_cast<Complex<float>*>(args.scratch.data), points, inner, stream);
  }
}

}  // namespace hyena
