// Registers the CPU kernels for the ops that hyena_kernels/backends/cpp/schemas.py defines.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <optional>

#include "../common/tensor_view.h"
#include "dispatch.h"
#include "far_field.h"
#include "fftconv.h"
#include "gelu.h"
#include "implicit_filter.h"
#include "layer_norm.h"
#include "mixer_step.h"
#include "position_dropout.h"
#include "taps.h"

namespace hyena {
namespace {

using torch::stable::Tensor;

bool wide(const View& a, const View& b) { return a.dtype == Dtype::f64 || b.dtype == Dtype::f64; }

// The least number of channels for a thread, about 30 µs of work: less is not worth handing to another thread.
int64_t grain(const View& u) { return std::max<int64_t>(1, 32768 / std::max<int64_t>(1, u.size[0] * u.size[2])); }

const FftconvKernels& fftconv_kernels() { return choose(fftconv_avx512, fftconv_avx2, fftconv_portable); }

void fftconv_fwd(Tensor y, Tensor u, Tensor k, std::optional<Tensor> skip, std::optional<Tensor> pre_gate,
                 std::optional<Tensor> post_gate, int64_t tap) {
  FftconvForward args{view(y), view(u), view(k), view(skip), view(pre_gate), view(post_gate), tap, false};
  args.wide = wide(args.u, args.k);
  const auto& kernels = fftconv_kernels();
  torch::stable::parallel_for(0, args.u.size[1], grain(args.u),
                              [&](int64_t first, int64_t last) { kernels.forward(args, first, last); });
}

void fftconv_bwd(std::optional<Tensor> du, std::optional<Tensor> dk, std::optional<Tensor> dskip,
                 std::optional<Tensor> dpre_gate, std::optional<Tensor> dpost_gate, Tensor dy, Tensor u, Tensor k,
                 std::optional<Tensor> skip, std::optional<Tensor> pre_gate, std::optional<Tensor> post_gate,
                 int64_t tap) {
  FftconvBackward args{view(du), view(dk), view(dskip), view(dpre_gate), view(dpost_gate), view(dy),
                       view(u),  view(k),  view(skip),  view(pre_gate),  view(post_gate),  tap,
                       false};
  args.wide = wide(args.u, args.k);
  const auto& kernels = fftconv_kernels();
  torch::stable::parallel_for(0, args.u.size[1], grain(args.u),
                              [&](int64_t first, int64_t last) { kernels.backward(args, first, last); });
}

const FarFieldKernels& far_field_kernels() { return choose(far_field_avx512, far_field_avx2, far_field_portable); }

void far_field_conv_fwd(Tensor y, Tensor u, Tensor near, Tensor nodes, std::optional<Tensor> skip,
                        std::optional<Tensor> pre_gate, std::optional<Tensor> post_gate) {
  FarFieldForward args{view(y), view(u), view(near), view(nodes), view(skip), view(pre_gate), view(post_gate), false};
  args.wide = wide(args.u, args.near);
  const auto& kernels = far_field_kernels();
  torch::stable::parallel_for(0, args.u.size[1], grain(args.u),
                              [&](int64_t first, int64_t last) { kernels.forward(args, first, last); });
}

void far_field_conv_bwd(std::optional<Tensor> du, std::optional<Tensor> dnear, std::optional<Tensor> dnodes,
                        std::optional<Tensor> dskip, std::optional<Tensor> dpre_gate, std::optional<Tensor> dpost_gate,
                        Tensor dy, Tensor u, Tensor near, Tensor nodes, std::optional<Tensor> skip,
                        std::optional<Tensor> pre_gate, std::optional<Tensor> post_gate) {
  FarFieldBackward args{view(du),   view(dnear), view(dnodes), view(dskip),    view(dpre_gate), view(dpost_gate), view(dy),
                        view(u),    view(near),  view(nodes),  view(skip),     view(pre_gate),  view(post_gate),
                        false};
  args.wide = wide(args.u, args.near);
  const auto& kernels = far_field_kernels();
  torch::stable::parallel_for(0, args.u.size[1], grain(args.u),
                              [&](int64_t first, int64_t last) { kernels.backward(args, first, last); });
}

const TapsKernels& taps_kernels() { return choose(taps_avx512, taps_avx2, taps_portable); }

int64_t groups(int64_t channels) { return (channels + group_channels - 1) / group_channels; }

// Calls run(first, last) for ranges of channels. They begin where groups do, if there are groups.
template <class Run>
void for_channels(const View& x, const View& weight, const Run& run) {
  const int64_t each = in_groups(x, weight) ? group_channels : 1, least_channels = grain(x);
  torch::stable::parallel_for(0, (x.size[1] + each - 1) / each, (least_channels + each - 1) / each,
                              [&](int64_t first, int64_t last) {
                                run(first * each, std::min(last * each, x.size[1]));
                              });
}

void short_conv_fwd(Tensor y, Tensor x, Tensor weight, std::optional<Tensor> bias, std::optional<Tensor> state,
                    bool silu) {
  ShortConvForward args{view(y), view(x), view(weight), view(bias), view(state), silu};
  args.wide = wide(args.x, args.weight);
  const auto& kernels = taps_kernels();
  for_channels(args.x, args.weight, [&](int64_t first, int64_t last) { kernels.short_conv_forward(args, first, last); });
}

void short_conv_bwd(std::optional<Tensor> dx, std::optional<Tensor> dweight, std::optional<Tensor> dbias,
                    std::optional<Tensor> dstate, Tensor dy, Tensor x, Tensor weight, std::optional<Tensor> bias,
                    std::optional<Tensor> state, bool silu) {
  ShortConvBackward args{view(dx), view(dweight), view(dbias), view(dstate), view(dy),
                         view(x),  view(weight),  view(bias),  view(state),  silu};
  args.wide = wide(args.x, args.weight);
  const auto& kernels = taps_kernels();
  for_channels(args.x, args.weight, [&](int64_t first, int64_t last) { kernels.short_conv_backward(args, first, last); });
}

void project_fwd(Tensor first_value, Tensor gates, Tensor x, Tensor weight, std::optional<Tensor> bias) {
  ProjectForward args{view(first_value), view(gates), view(x), view(weight), view(bias)};
  args.wide = wide(args.x, args.weight);
  const auto& kernels = taps_kernels();
  torch::stable::parallel_for(0, groups(args.first.size[1]), 1, [&](int64_t first, int64_t last) {
    kernels.project_forward(args, first, last);
  });
}

void project_bwd(std::optional<Tensor> dx, std::optional<Tensor> dweight, std::optional<Tensor> dbias, Tensor dfirst,
                 Tensor dgates, Tensor x, Tensor weight, std::optional<Tensor> bias) {
  ProjectBackward args{view(dx), view(dweight), view(dbias), view(dfirst),
                       view(dgates), view(x), view(weight), view(bias)};
  args.wide = wide(args.x, args.weight);
  const auto& kernels = taps_kernels();
  torch::stable::parallel_for(0, groups(args.dfirst.size[1]), 1, [&](int64_t first, int64_t last) {
    kernels.project_backward(args, first, last);
  });
}

void hyena_mixer_fwd(Tensor y, Tensor x, Tensor weight, std::optional<Tensor> bias, Tensor k,
                     std::optional<Tensor> skip) {
  MixerForward args{view(y), view(x), view(weight), view(bias), view(k), view(skip)};
  args.wide = wide(args.x, args.weight) || wide(args.x, args.k);
  const auto& kernels = taps_kernels();
  torch::stable::parallel_for(0, groups(args.k.size[1]), 1, [&](int64_t first, int64_t last) {
    kernels.mixer_forward(args, first, last);
  });
}

void hyena_mixer_bwd(std::optional<Tensor> dx, std::optional<Tensor> dweight, std::optional<Tensor> dbias,
                     std::optional<Tensor> dk, std::optional<Tensor> dskip, Tensor dy, Tensor x, Tensor weight,
                     std::optional<Tensor> bias, Tensor k, std::optional<Tensor> skip) {
  MixerBackward args{view(dx), view(dweight), view(dbias), view(dk), view(dskip), view(dy),
                     view(x),  view(weight),  view(bias),  view(k),  view(skip)};
  args.wide = wide(args.x, args.weight) || wide(args.x, args.k);
  const auto& kernels = taps_kernels();
  torch::stable::parallel_for(0, groups(args.k.size[1]), 1, [&](int64_t first, int64_t last) {
    kernels.mixer_backward(args, first, last);
  });
}

// Tensor 0 along the first of four dimensions
View first_of(const Tensor& tensor) {
  View v;
  v.data = tensor.data_ptr();
  v.dtype = dtype_of(tensor);
  for (int64_t i = 1; i < 4; ++i) {
    v.size[i - 1] = tensor.size(i);
    v.stride[i - 1] = tensor.stride(i);
  }
  return v;
}

// Tensor (N-1, d, rows, columns) of nodes, one step of the recurrence at a time
MixerNodes nodes_view(const Tensor& nodes) {
  MixerNodes v;
  v.given = true;
  v.step = nodes.stride(0);
  v.first = first_of(nodes);
  return v;
}

MixerNodes nodes_view(const std::optional<Tensor>& nodes) { return nodes ? nodes_view(*nodes) : MixerNodes(); }

void hyena_mixer_far_fwd(Tensor y, Tensor x, Tensor weight, std::optional<Tensor> bias, Tensor near, Tensor nodes,
                         std::optional<Tensor> skip) {
  MixerForward args{view(y), view(x), view(weight), view(bias), view(near), view(skip), nodes_view(nodes)};
  args.wide = wide(args.x, args.weight) || wide(args.x, args.k);
  const auto& kernels = taps_kernels();
  torch::stable::parallel_for(0, groups(args.k.size[1]), 1, [&](int64_t first, int64_t last) {
    kernels.mixer_forward(args, first, last);
  });
}

void hyena_mixer_far_bwd(std::optional<Tensor> dx, std::optional<Tensor> dweight, std::optional<Tensor> dbias,
                         std::optional<Tensor> dnear, std::optional<Tensor> dnodes, std::optional<Tensor> dskip,
                         Tensor dy, Tensor x, Tensor weight, std::optional<Tensor> bias, Tensor near, Tensor nodes,
                         std::optional<Tensor> skip) {
  MixerBackward args{view(dx), view(dweight), view(dbias), view(dnear), view(dskip),       view(dy),
                     view(x),  view(weight),  view(bias),  view(near),  view(skip),        nodes_view(dnodes),
                     nodes_view(nodes)};
  args.wide = wide(args.x, args.weight) || wide(args.x, args.k);
  const auto& kernels = taps_kernels();
  torch::stable::parallel_for(0, groups(args.k.size[1]), 1, [&](int64_t first, int64_t last) {
    kernels.mixer_backward(args, first, last);
  });
}

ImplicitFilterInputs implicit_filter_inputs(const Tensor& z, const Tensor& freq, const Tensor& w_in, const Tensor& b_in,
                                            const Tensor& w_hidden, const Tensor& b_hidden, const Tensor& w_out,
                                            const std::optional<Tensor>& t, const std::optional<Tensor>& deltas,
                                            double shift) {
  return {view(z),        view(freq),  view(w_in), view(b_in),   view(w_hidden),
          view(b_hidden), view(w_out), view(t),    view(deltas), shift};
}

const ImplicitFilterKernels& implicit_filter_kernels() {
  return choose(implicit_filter_avx512, implicit_filter_avx2, implicit_filter_portable);
}

void implicit_filter_fwd(Tensor k, Tensor z, Tensor freq, Tensor w_in, Tensor b_in, Tensor w_hidden, Tensor b_hidden,
                         Tensor w_out, std::optional<Tensor> t, std::optional<Tensor> deltas, double shift) {
  const ImplicitFilterForward args{
      view(k), implicit_filter_inputs(z, freq, w_in, b_in, w_hidden, b_hidden, w_out, t, deltas, shift)};
  const auto& kernels = implicit_filter_kernels();
  const int64_t tiles = (args.in.z.size[0] + kernels.tile - 1) / kernels.tile;
  torch::stable::parallel_for(0, tiles, 1, [&](int64_t first, int64_t last) { kernels.forward(args, first, last); });
}

void implicit_filter_bwd(std::optional<Tensor> dz, std::optional<Tensor> dfreq, std::optional<Tensor> dw_in,
                         std::optional<Tensor> db_in, std::optional<Tensor> dw_hidden, std::optional<Tensor> db_hidden,
                         std::optional<Tensor> dw_out, std::optional<Tensor> dt, std::optional<Tensor> ddeltas,
                         Tensor sums, Tensor dk, Tensor z, Tensor freq, Tensor w_in, Tensor b_in, Tensor w_hidden,
                         Tensor b_hidden, Tensor w_out, std::optional<Tensor> t, std::optional<Tensor> deltas,
                         double shift, int64_t chunk) {
  const ImplicitFilterBackward args{
      view(dz),        view(dfreq),  view(dw_in), view(db_in),   view(dw_hidden),
      view(db_hidden), view(dw_out), view(dt),    view(ddeltas), view(dk),
      implicit_filter_inputs(z, freq, w_in, b_in, w_hidden, b_hidden, w_out, t, deltas, shift),
      view(sums),      chunk};
  const auto& kernels = implicit_filter_kernels();
  torch::stable::parallel_for(0, args.sums.size[0], 1,
                              [&](int64_t first, int64_t last) { kernels.backward(args, first, last); });
  torch::stable::parallel_for(0, args.sums.size[1], 4096,
                              [&](int64_t first, int64_t last) { kernels.add_chunks(args, first, last); });
}

const MixerStepKernels& mixer_step_kernels() {
  return choose(mixer_step_avx512, mixer_step_avx2, mixer_step_portable);
}

// The least number of tasks for a thread, about 30 µs of work
constexpr int64_t step_grain = 16;

void hyena_mixer_step(Tensor y, Tensor short_state, Tensor u, Tensor x, Tensor weight, std::optional<Tensor> bias,
                      Tensor future, Tensor taps, int64_t t, int64_t window) {
  const MixerStep args{view(y),      view(x),          view(short_state), view(weight), view(bias), first_of(u),
                       first_of(future), view(taps), u.stride(0), future.stride(0), t, window};
  const int64_t blocks = (args.taps.size[1] + step_channels - 1) / step_channels;
  const auto& kernels = mixer_step_kernels();
  torch::stable::parallel_for(0, args.x.size[0] * blocks, step_grain,
                              [&](int64_t first, int64_t last) { kernels.run(args, first, last); });
}

const GeluKernels& gelu_kernels() { return choose(gelu_avx512, gelu_avx2, gelu_portable); }

// The least number of elements for a thread, about 30 µs of work.
constexpr int64_t gelu_grain = 32768;

void gelu_fwd(Tensor y, Tensor x) {
  const GeluForward args{view(y), view(x)};
  const auto& kernels = gelu_kernels();
  torch::stable::parallel_for(0, args.x.size[0], gelu_grain,
                              [&](int64_t first, int64_t last) { kernels.forward(args, first, last); });
}

void gelu_bwd(Tensor dx, Tensor dy, Tensor x) {
  const GeluBackward args{view(dx), view(dy), view(x)};
  const auto& kernels = gelu_kernels();
  torch::stable::parallel_for(0, args.x.size[0], gelu_grain,
                              [&](int64_t first, int64_t last) { kernels.backward(args, first, last); });
}

void position_dropout(Tensor y, Tensor x, Tensor samples, int64_t seed, int64_t offset, int64_t threshold,
                      double scale) {
  const PositionDropout args{view(y),  view(x),
                             static_cast<const int64_t*>(samples.data_ptr()), static_cast<uint64_t>(seed),
                             offset,   threshold,
                             scale};
  const auto& kernels = choose(position_dropout_avx512, position_dropout_avx2, position_dropout_portable);
  const int64_t few = std::max<int64_t>(1, 16384 / std::max<int64_t>(1, args.x.size[2]));
  torch::stable::parallel_for(0, args.x.size[0] * args.x.size[1], few,
                              [&](int64_t first, int64_t last) { kernels.run(args, first, last); });
}

const LayerNormKernels& layer_norm_kernels() {
  return choose(layer_norm_avx512, layer_norm_avx2, layer_norm_portable);
}

// A tensor of rows (…, D) as (N, D). It is contiguous, or has two dimensions.
View rows(const Tensor& tensor) {
  const int64_t last = tensor.dim() - 1;
  View v;
  v.data = tensor.data_ptr();
  v.dtype = dtype_of(tensor);
  v.size[1] = tensor.size(last);
  v.size[0] = tensor.numel() / std::max<int64_t>(1, v.size[1]);
  v.stride[1] = tensor.stride(last);
  v.stride[0] = last > 0 ? tensor.stride(last - 1) : v.size[1];
  return v;
}

View rows(const std::optional<Tensor>& tensor) { return tensor ? rows(*tensor) : View(); }

void layer_norm_fwd(Tensor y, std::optional<Tensor> total, Tensor residual, std::optional<Tensor> x, Tensor weight,
                    Tensor bias, double eps, bool wide) {
  const LayerNormForward args{rows(y), rows(total), rows(residual), rows(x), view(weight), view(bias), eps, wide};
  const auto& kernels = layer_norm_kernels();
  const int64_t few = std::max<int64_t>(1, 32768 / std::max<int64_t>(1, args.residual.size[1]));
  torch::stable::parallel_for(0, args.residual.size[0], few,
                              [&](int64_t first, int64_t last) { kernels.forward(args, first, last); });
}

void layer_norm_bwd(std::optional<Tensor> dresidual, std::optional<Tensor> copy, std::optional<Tensor> dweight,
                    std::optional<Tensor> dbias, std::optional<Tensor> sums, Tensor dy, std::optional<Tensor> dtotal,
                    Tensor residual, Tensor weight, double eps, int64_t chunk, bool wide) {
  const LayerNormBackward args{rows(dresidual), rows(copy),     view(dweight), view(dbias), view(sums), rows(dy),
                               rows(dtotal),    rows(residual), view(weight),  eps,         chunk,      wide};
  const auto& kernels = layer_norm_kernels();
  torch::stable::parallel_for(0, (args.residual.size[0] + chunk - 1) / chunk, 1,
                              [&](int64_t first, int64_t last) { kernels.backward(args, first, last); });
  if (!args.sums) return;
  torch::stable::parallel_for(0, args.weight.size[0], 4096,
                              [&](int64_t first, int64_t last) { kernels.add_chunks(args, first, last); });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hyena_kernels_ext, CPU, m) {
  m.impl("fftconv_fwd", TORCH_BOX(&fftconv_fwd));
  m.impl("fftconv_bwd", TORCH_BOX(&fftconv_bwd));
  m.impl("far_field_conv_fwd", TORCH_BOX(&far_field_conv_fwd));
  m.impl("far_field_conv_bwd", TORCH_BOX(&far_field_conv_bwd));
  m.impl("short_conv_fwd", TORCH_BOX(&short_conv_fwd));
  m.impl("short_conv_bwd", TORCH_BOX(&short_conv_bwd));
  m.impl("project_fwd", TORCH_BOX(&project_fwd));
  m.impl("project_bwd", TORCH_BOX(&project_bwd));
  m.impl("hyena_mixer_fwd", TORCH_BOX(&hyena_mixer_fwd));
  m.impl("hyena_mixer_bwd", TORCH_BOX(&hyena_mixer_bwd));
  m.impl("hyena_mixer_far_fwd", TORCH_BOX(&hyena_mixer_far_fwd));
  m.impl("hyena_mixer_far_bwd", TORCH_BOX(&hyena_mixer_far_bwd));
  m.impl("hyena_mixer_step", TORCH_BOX(&hyena_mixer_step));
  m.impl("implicit_filter_fwd", TORCH_BOX(&implicit_filter_fwd));
  m.impl("implicit_filter_bwd", TORCH_BOX(&implicit_filter_bwd));
  m.impl("gelu_fwd", TORCH_BOX(&gelu_fwd));
  m.impl("gelu_bwd", TORCH_BOX(&gelu_bwd));
  m.impl("position_dropout", TORCH_BOX(&position_dropout));
  m.impl("layer_norm_fwd", TORCH_BOX(&layer_norm_fwd));
  m.impl("layer_norm_bwd", TORCH_BOX(&layer_norm_bwd));
}

}  // namespace hyena
