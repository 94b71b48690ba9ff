// The parallel paths of the CPU kernels over std::thread, for ThreadSanitizer. libtorch and its OpenMP are not
// instrumented, so with them every array that one thread hands to another would be reported as a race.
//
//   threads           every op as csrc/cpu/bindings.cpp divides it among threads, and all of them at the same time
//   threads --plant   two threads that write the same rows: the sanitizer must report it

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <thread>
#include <vector>

#include "dispatch.h"
#include "far_field.h"
#include "fftconv.h"
#include "implicit_filter.h"
#include "taps.h"

namespace {

using namespace hyena;

constexpr int threads = 4;

// Contiguous, filled with small numbers of either sign.
struct Tensor {
  std::vector<std::int64_t> sizes;
  Dtype dtype;
  std::vector<std::uint64_t> memory;

  Tensor(std::initializer_list<std::int64_t> shape, Dtype type) : sizes(shape), dtype(type) {
    std::int64_t count = 1;
    for (std::int64_t size : sizes) count *= size;
    memory.resize(count + 1);
    std::uint32_t state = 1;
    for (std::int64_t i = 0; i < count; ++i) {
      state = state * 1664525u + 1013904223u;
      const double value = (static_cast<double>(state >> 8) / (1 << 24) - 0.5) / 4;
      const float narrow = static_cast<float>(value);
      char* at = reinterpret_cast<char*>(memory.data());
      if (dtype == Dtype::f64) std::memcpy(at + 8 * i, &value, 8);
      if (dtype == Dtype::f32) std::memcpy(at + 4 * i, &narrow, 4);
      // Bits that are small numbers of either sign in both 16-bit formats.
      const std::uint16_t bits = static_cast<std::uint16_t>(0x3c00 | (state >> 16 & 0x80ff));
      if (dtype == Dtype::f16 || dtype == Dtype::bf16) std::memcpy(at + 2 * i, &bits, 2);
    }
  }

  View view() {
    View v;
    v.data = memory.data();
    v.dtype = dtype;
    std::int64_t stride = 1;
    for (int i = static_cast<int>(sizes.size()) - 1; i >= 0; --i) {
      v.size[i] = sizes[i];
      v.stride[i] = stride;
      stride *= sizes[i];
    }
    return v;
  }
};

using Range = std::function<void(std::int64_t, std::int64_t)>;

// All threads begin together. Otherwise the lock of the tables would put them in order and hide a race.
void parallel(std::int64_t count, const Range& work) {
  std::vector<std::thread> pool;
  std::atomic<int> missing{threads};
  for (int i = 0; i < threads; ++i)
    pool.emplace_back([=, &work, &missing] {
      --missing;
      while (missing) std::this_thread::yield();
      work(count * i / threads, count * (i + 1) / threads);
    });
  for (std::thread& thread : pool) thread.join();
}

void fftconv(std::int64_t length, Dtype dtype, Dtype filter) {
  const std::int64_t batch = 2, channels = 9;
  const auto signal = [&] { return Tensor({batch, channels, length}, dtype); };
  Tensor y = signal(), u = signal(), pre = signal(), post = signal(), k({channels, length}, filter), skip({channels}, filter);
  Tensor du = signal(), dpre = signal(), dpost = signal(), dk({channels, length}, filter), dskip({channels}, filter);
  const bool wide = dtype == Dtype::f64;
  const FftconvKernels& kernels = choose(fftconv_avx512, fftconv_avx2, fftconv_portable);
  for (std::int64_t tap : {std::int64_t{0}, length / 2}) {
    const FftconvForward forward{y.view(), u.view(), k.view(), skip.view(), pre.view(), post.view(), tap, wide};
    parallel(channels, [&](std::int64_t first, std::int64_t last) { kernels.forward(forward, first, last); });
    const FftconvBackward backward{du.view(), dk.view(), dskip.view(), dpre.view(), dpost.view(), y.view(),
                                   u.view(),  k.view(),  skip.view(),  pre.view(),  post.view(),  tap,
                                   wide};
    parallel(channels, [&](std::int64_t first, std::int64_t last) { kernels.backward(backward, first, last); });
  }
}

void far_field(std::int64_t length, Dtype dtype, Dtype filter) {
  const std::int64_t batch = 2, channels = 9, h = 32, p = 6, apart = (length + h - 1) / h;
  const auto signal = [&] { return Tensor({batch, channels, length}, dtype); };
  Tensor y = signal(), u = signal(), pre = signal(), post = signal(), du = signal(), dpre = signal(), dpost = signal();
  Tensor near({channels, h}, filter), nodes({channels, 2 * p - 1, apart}, filter), skip({channels}, filter);
  Tensor dnear(near), dnodes(nodes), dskip(skip);
  const bool wide = dtype == Dtype::f64;
  const FarFieldKernels& kernels = choose(far_field_avx512, far_field_avx2, far_field_portable);
  const FarFieldForward forward{y.view(), u.view(), near.view(), nodes.view(), skip.view(), pre.view(), post.view(), wide};
  parallel(channels, [&](std::int64_t first, std::int64_t last) { kernels.forward(forward, first, last); });
  const FarFieldBackward backward{du.view(), dnear.view(), dnodes.view(), dskip.view(), dpre.view(), dpost.view(), y.view(),
                                  u.view(),  near.view(),  nodes.view(),  skip.view(),  pre.view(),  post.view(),  wide};
  parallel(channels, [&](std::int64_t first, std::int64_t last) { kernels.backward(backward, first, last); });
}

// Filters that are much shorter than the row
void short_filters(std::int64_t length, std::int64_t taps) {
  const std::int64_t channels = 9;
  const auto signal = [&] { return Tensor({2, channels, length}, Dtype::f32); };
  Tensor y = signal(), u = signal(), du = signal(), k({channels, taps}, Dtype::f32), dk(k);
  const FftconvKernels& kernels = choose(fftconv_avx512, fftconv_avx2, fftconv_portable);
  const FftconvForward forward{y.view(), u.view(), k.view(), View(), View(), View(), taps / 2, false};
  parallel(channels, [&](std::int64_t first, std::int64_t last) { kernels.forward(forward, first, last); });
  const FftconvBackward backward{du.view(), dk.view(), View(), View(), View(), y.view(),
                                 u.view(),  k.view(),  View(), View(), View(), taps / 2, false};
  parallel(channels, [&](std::int64_t first, std::int64_t last) { kernels.backward(backward, first, last); });
}

void taps(std::int64_t length, Dtype dtype, Dtype filter) {
  const std::int64_t batch = 2, channels = 37, parts = 3, width = parts * channels, groups = 3;
  static_assert(2 * group_channels < 37 && 37 <= 3 * group_channels);
  const bool wide = dtype == Dtype::f64;
  const TapsKernels& kernels = choose(taps_avx512, taps_avx2, taps_portable);
  Tensor weight({width, 3}, filter), bias({width}, filter), dweight({width, 3}, filter), dbias({width}, filter);

  Tensor rows({batch, width, length}, dtype), convolved({batch, width, length}, dtype), drows({batch, width, length}, dtype);
  const ShortConvForward conv{convolved.view(), rows.view(), weight.view(), bias.view(), View(), true, wide};
  parallel(width, [&](std::int64_t first, std::int64_t last) { kernels.short_conv_forward(conv, first, last); });
  const ShortConvBackward dconv{drows.view(),  dweight.view(), dbias.view(), View(), convolved.view(), rows.view(),
                                weight.view(), bias.view(),    View(),       true,   wide};
  parallel(width, [&](std::int64_t first, std::int64_t last) { kernels.short_conv_backward(dconv, first, last); });

  Tensor x({batch, length, width}, dtype), dx({batch, length, width}, dtype);
  Tensor first_value({batch, channels, length}, dtype), gates({batch, channels, length}, dtype);
  const ProjectForward project{first_value.view(), gates.view(), x.view(), weight.view(), bias.view(), wide};
  parallel(groups, [&](std::int64_t first, std::int64_t last) { kernels.project_forward(project, first, last); });
  const ProjectBackward dproject{dx.view(),    dweight.view(), dbias.view(),  first_value.view(),
                                 gates.view(), x.view(),       weight.view(), bias.view(),
                                 wide};
  parallel(groups, [&](std::int64_t first, std::int64_t last) { kernels.project_backward(dproject, first, last); });

  Tensor y({batch, length, channels}, dtype), k({1, channels, length}, filter), skip({1, channels}, filter);
  Tensor dk({1, channels, length}, filter), dskip({1, channels}, filter);
  const MixerForward mixer{y.view(), x.view(), weight.view(), bias.view(), k.view(), skip.view(), MixerNodes(), wide};
  parallel(groups, [&](std::int64_t first, std::int64_t last) { kernels.mixer_forward(mixer, first, last); });
  const MixerBackward dmixer{dx.view(), dweight.view(), dbias.view(), dk.view(), dskip.view(), y.view(),
                             x.view(),  weight.view(),  bias.view(),  k.view(),  skip.view(),  MixerNodes(),
                             MixerNodes(), wide};
  parallel(groups, [&](std::int64_t first, std::int64_t last) { kernels.mixer_backward(dmixer, first, last); });
}

void implicit_filter(std::int64_t length, Dtype dtype) {
  const std::int64_t features = 5, width = 19, layers = 2, channels = 21, chunk = 512;
  const std::int64_t chunks = (length + chunk - 1) / chunk;
  const auto of = [&](std::initializer_list<std::int64_t> shape) { return Tensor(shape, dtype); };
  Tensor z = of({length, features}), freq = of({width}), w_in = of({width, features}), b_in = of({width});
  Tensor w_hidden = of({layers, width, width}), b_hidden = of({layers, width}), w_out = of({channels, width});
  Tensor t = of({length}), deltas = of({channels}), k = of({channels, length});
  const ImplicitFilterInputs in{z.view(),        freq.view(),  w_in.view(), b_in.view(),   w_hidden.view(),
                                b_hidden.view(), w_out.view(), t.view(),    deltas.view(), 0.05};
  const ImplicitFilterKernels& kernels =
      choose(implicit_filter_avx512, implicit_filter_avx2, implicit_filter_portable);
  const ImplicitFilterForward forward{k.view(), in};
  parallel((length + kernels.tile - 1) / kernels.tile,
           [&](std::int64_t first, std::int64_t last) { kernels.forward(forward, first, last); });

  Tensor dz(z), dfreq(freq), dw_in(w_in), db_in(b_in), dw_hidden(w_hidden), db_hidden(b_hidden), dw_out(w_out), dt(t),
      ddeltas(deltas);
  const std::int64_t parameters =
      width + width * features + width + layers * width * width + layers * width + channels * width + channels;
  Tensor sums({chunks, parameters}, Dtype::f64);
  const ImplicitFilterBackward backward{
      dz.view(),        dfreq.view(),  dw_in.view(), db_in.view(),   dw_hidden.view(), db_hidden.view(),
      dw_out.view(), dt.view(),    ddeltas.view(), k.view(), in, sums.view(), chunk};
  parallel(chunks, [&](std::int64_t first, std::int64_t last) { kernels.backward(backward, first, last); });
  parallel(parameters, [&](std::int64_t first, std::int64_t last) { kernels.add_chunks(backward, first, last); });
}

void plant() {
  const std::int64_t channels = 8, length = 100000;
  Tensor y({1, channels, length}, Dtype::f32), u({1, channels, length}, Dtype::f32), k({channels, length}, Dtype::f32);
  const FftconvForward args{y.view(), u.view(), k.view(), View(), View(), View(), 0, false};
  const FftconvKernels& kernels = choose(fftconv_avx512, fftconv_avx2, fftconv_portable);
  parallel(threads, [&](std::int64_t, std::int64_t) { kernels.forward(args, 0, channels); });
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && std::strcmp(argv[1], "--plant") == 0) {
    plant();
    return 0;
  }
  const std::vector<std::function<void()>> all{
      [] { fftconv(1, Dtype::f32, Dtype::f32); },
      [] { fftconv(1000, Dtype::f32, Dtype::f32); },
      [] { fftconv(1000, Dtype::bf16, Dtype::f32); },
      [] { fftconv(5000, Dtype::f16, Dtype::f32); },
      [] { fftconv(2500, Dtype::f64, Dtype::f64); },
      // Scratch and tables that are returned after the call.
      [] { fftconv(300000, Dtype::f32, Dtype::f32); },
      [] { far_field(20, Dtype::f32, Dtype::f32); },
      [] { far_field(5000, Dtype::f32, Dtype::f32); },
      [] { far_field(1000, Dtype::bf16, Dtype::f32); },
      [] { far_field(1000, Dtype::f64, Dtype::f64); },
      [] { short_filters(9000, 100); },
      [] { short_filters(9000, 1000); },
      [] { taps(2, Dtype::f32, Dtype::f32); },
      [] { taps(700, Dtype::f32, Dtype::f32); },
      [] { taps(700, Dtype::bf16, Dtype::f32); },
      [] { taps(700, Dtype::f16, Dtype::f16); },
      [] { taps(600, Dtype::f64, Dtype::f64); },
      [] { implicit_filter(100, Dtype::f32); },
      [] { implicit_filter(3000, Dtype::f32); },
      [] { implicit_filter(3000, Dtype::f64); },
  };
  for (const auto& op : all) op();
  // Like an application that calls ops from several threads.
  std::vector<std::thread> callers;
  for (const auto& op : all) callers.emplace_back(op);
  for (std::thread& caller : callers) caller.join();
  std::printf("%s: %zu cases, one by one and all at once\n", isa_name(), all.size());
  return 0;
}
