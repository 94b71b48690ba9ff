// Convolutions of packed rows: one segment after the other, as a batch of one.
//
// A thread takes some channels of all segments. Nothing is padded or copied. Sums over segments are made in the order
// of the segments, so they do not depend on the number of threads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <optional>

#include "../common/tensor_view.h"
#include "dispatch.h"
#include "fftconv.h"
#include "taps.h"

namespace hyena {
namespace {

using torch::stable::Tensor;

bool wide(const View& a, const View& b) { return a.dtype == Dtype::f64 || b.dtype == Dtype::f64; }

int64_t bytes(Dtype dtype) { return dtype == Dtype::f64 ? 8 : dtype == Dtype::f32 ? 4 : 2; }

struct Segment {
  int64_t start, length;
};

// Calls `visit` with every segment of rows (2, S): starts and lengths.
template <class Visit>
void each_segment(const Tensor& rows, Visit visit) {
  const int64_t count = rows.size(1);
  const int64_t* starts = static_cast<const int64_t*>(rows.data_ptr());
  for (int64_t s = 0; s < count; ++s) visit(Segment{starts[s], starts[count + s]});
}

// One segment of a packed tensor of two dimensions as a batch of one, with the same order of dimensions
View part(const View& v, int axis, const Segment& segment) {
  View out;
  if (!v) return out;
  out.data = static_cast<char*>(v.data) + segment.start * v.stride[axis] * bytes(v.dtype);
  out.dtype = v.dtype;
  out.size[0] = 1, out.size[1] = v.size[0], out.size[2] = v.size[1];
  out.size[axis + 1] = segment.length;
  out.stride[0] = 0, out.stride[1] = v.stride[0], out.stride[2] = v.stride[1];
  return out;
}

// The taps that a segment reaches of filters, which are the last dimension
View reached(View k, int axis, const Segment& segment) {
  k.size[axis] = std::min(k.size[axis], segment.length);
  return k;
}

// sum += part for some rows of two tensors (…, rows, taps) of the same strides, at index `first` of the elements
template <class T>
void add(const View& sum, const View& part, int64_t first, int64_t row_stride, int64_t rows, int64_t taps) {
  T* to = static_cast<T*>(sum.data) + first;
  const T* from = static_cast<const T*>(part.data) + first;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < taps; ++i) to[r * row_stride + i] += from[r * row_stride + i];
  }
}

// The same for contiguous tensors of float32 or float64. Absent ones are left out.
void add(const View& sum, const View& part, int64_t first, int64_t row_stride, int64_t rows, int64_t taps) {
  if (!sum) return;
  sum.dtype == Dtype::f64 ? add<double>(sum, part, first, row_stride, rows, taps)
                          : add<float>(sum, part, first, row_stride, rows, taps);
}

const FftconvKernels& fftconv_kernels() { return choose(fftconv_avx512, fftconv_avx2, fftconv_portable); }

const TapsKernels& taps_kernels() { return choose(taps_avx512, taps_avx2, taps_portable); }

// The least number of channels for a thread, about 30 µs of work
int64_t grain(int64_t positions) { return std::max<int64_t>(1, 32768 / std::max<int64_t>(1, positions)); }

void fftconv_varlen_fwd(Tensor y, Tensor u, Tensor k, std::optional<Tensor> skip, std::optional<Tensor> pre_gate,
                        std::optional<Tensor> post_gate, Tensor rows) {
  const View y_all = view(y), u_all = view(u), k_all = view(k), pre = view(pre_gate), post = view(post_gate);
  const auto& kernels = fftconv_kernels();
  torch::stable::parallel_for(0, u_all.size[0], grain(u_all.size[1]), [&](int64_t first, int64_t last) {
    each_segment(rows, [&](const Segment& segment) {
      FftconvForward args;
      args.y = part(y_all, 1, segment), args.u = part(u_all, 1, segment);
      args.k = reached(k_all, 1, segment), args.skip = view(skip);
      args.pre_gate = part(pre, 1, segment), args.post_gate = part(post, 1, segment);
      args.wide = wide(u_all, k_all);
      kernels.forward(args, first, last);
    });
  });
}

// `dk` and `dskip` are sums over segments, zero at first. One segment's share goes to `dk_part` and `dskip_part`.
void fftconv_varlen_bwd(std::optional<Tensor> du, std::optional<Tensor> dpre_gate, std::optional<Tensor> dpost_gate,
                        std::optional<Tensor> dk, std::optional<Tensor> dskip, std::optional<Tensor> dk_part,
                        std::optional<Tensor> dskip_part, Tensor dy, Tensor u, Tensor k, std::optional<Tensor> skip,
                        std::optional<Tensor> pre_gate, std::optional<Tensor> post_gate, Tensor rows) {
  const View du_all = view(du), dpre = view(dpre_gate), dpost = view(dpost_gate), dy_all = view(dy), u_all = view(u);
  const View k_all = view(k), pre = view(pre_gate), post = view(post_gate), dk_one = view(dk_part), dk_sum = view(dk);
  const View dskip_one = view(dskip_part), dskip_sum = view(dskip);
  const auto& kernels = fftconv_kernels();
  torch::stable::parallel_for(0, u_all.size[0], grain(u_all.size[1]), [&](int64_t first, int64_t last) {
    each_segment(rows, [&](const Segment& segment) {
      FftconvBackward args;
      args.du = part(du_all, 1, segment);
      args.dpre_gate = part(dpre, 1, segment), args.dpost_gate = part(dpost, 1, segment);
      args.dk = reached(dk_one, 1, segment), args.dskip = dskip_one;
      args.dy = part(dy_all, 1, segment), args.u = part(u_all, 1, segment);
      args.k = reached(k_all, 1, segment), args.skip = view(skip);
      args.pre_gate = part(pre, 1, segment), args.post_gate = part(post, 1, segment);
      args.wide = wide(u_all, k_all);
      kernels.backward(args, first, last);
      add(dk_sum, dk_one, first * dk_sum.stride[0], dk_sum.stride[0], last - first, args.dk.size[1]);
      add(dskip_sum, dskip_one, first, 1, last - first, 1);
    });
  });
}

void hyena_mixer_varlen_fwd(Tensor y, Tensor x, Tensor weight, std::optional<Tensor> bias, Tensor k,
                            std::optional<Tensor> skip, Tensor rows) {
  const View y_all = view(y), x_all = view(x), k_all = view(k);
  const auto& kernels = taps_kernels();
  const int64_t groups = (k_all.size[1] + group_channels - 1) / group_channels;
  torch::stable::parallel_for(0, groups, 1, [&](int64_t first, int64_t last) {
    each_segment(rows, [&](const Segment& segment) {
      MixerForward args;
      args.y = part(y_all, 0, segment), args.x = part(x_all, 0, segment);
      args.weight = view(weight), args.bias = view(bias);
      args.k = reached(k_all, 2, segment), args.skip = view(skip);
      args.wide = wide(args.x, args.weight) || wide(args.x, args.k);
      kernels.mixer_forward(args, first, last);
    });
  });
}

// Sums and shares of the tensors that segments have in common are as for fftconv_varlen_bwd.
void hyena_mixer_varlen_bwd(std::optional<Tensor> dx, std::optional<Tensor> dweight, std::optional<Tensor> dbias,
                            std::optional<Tensor> dk, std::optional<Tensor> dskip, std::optional<Tensor> dweight_part,
                            std::optional<Tensor> dbias_part, std::optional<Tensor> dk_part,
                            std::optional<Tensor> dskip_part, Tensor dy, Tensor x, Tensor weight,
                            std::optional<Tensor> bias, Tensor k, std::optional<Tensor> skip, Tensor rows) {
  const View dx_all = view(dx), dy_all = view(dy), x_all = view(x), k_all = view(k), w_all = view(weight);
  const View dweight_sum = view(dweight), dbias_sum = view(dbias), dk_sum = view(dk), dskip_sum = view(dskip);
  const View dweight_one = view(dweight_part), dbias_one = view(dbias_part), dk_one = view(dk_part);
  const View dskip_one = view(dskip_part);
  const int64_t steps = k_all.size[0], channels = k_all.size[1], short_taps = w_all.size[1];
  const auto& kernels = taps_kernels();
  const int64_t groups = (channels + group_channels - 1) / group_channels;
  torch::stable::parallel_for(0, groups, 1, [&](int64_t first, int64_t last) {
    const int64_t c = first * group_channels, some = std::min(channels, last * group_channels) - c;
    each_segment(rows, [&](const Segment& segment) {
      MixerBackward args;
      args.dx = part(dx_all, 0, segment), args.dweight = dweight_one, args.dbias = dbias_one;
      args.dk = reached(dk_one, 2, segment), args.dskip = dskip_one;
      args.dy = part(dy_all, 0, segment), args.x = part(x_all, 0, segment);
      args.weight = w_all, args.bias = view(bias);
      args.k = reached(k_all, 2, segment), args.skip = view(skip);
      args.wide = wide(args.x, args.weight) || wide(args.x, args.k);
      kernels.mixer_backward(args, first, last);
      for (int64_t o = 0; o < steps; ++o) {
        const int64_t at = o * dk_sum.stride[0] + c * dk_sum.stride[1];
        add(dk_sum, dk_one, at, dk_sum.stride[1], some, args.dk.size[2]);
        add(dskip_sum, dskip_one, o * channels + c, 1, some, 1);
      }
      for (int64_t p = 0; p < steps + 2; ++p) {
        const int64_t row = p * channels + c;
        add(dweight_sum, dweight_one, row * short_taps, short_taps, some, short_taps);
        add(dbias_sum, dbias_one, row, 1, some, 1);
      }
    });
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hyena_kernels_ext, CPU, m) {
  m.impl("fftconv_varlen_fwd", TORCH_BOX(&fftconv_varlen_fwd));
  m.impl("fftconv_varlen_bwd", TORCH_BOX(&fftconv_varlen_bwd));
  m.impl("hyena_mixer_varlen_fwd", TORCH_BOX(&hyena_mixer_varlen_fwd));
  m.impl("hyena_mixer_varlen_bwd", TORCH_BOX(&hyena_mixer_varlen_bwd));
}

}  // namespace hyena
