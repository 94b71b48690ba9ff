// The mixer of a Hyena operator. A few channels at a time go through all of its steps: projections to gates and signal,
// long convolutions in place, and back to channel-last. It needs no array of the size of the input.
#pragma once

#include "far_field.h"
#include "fftconv.h"
#include "projection.inl"

namespace hyena {
namespace {

// Memory as a tensor (batch, channels, length)
template <class T>
View memory_view(T* data, std::int64_t batch, std::int64_t channels, std::int64_t length, std::int64_t row_stride) {
  View v;
  v.data = data;
  v.dtype = dtype_of<T>();
  v.size[0] = batch, v.size[1] = channels, v.size[2] = length;
  v.stride[0] = channels * row_stride, v.stride[1] = row_stride, v.stride[2] = 1;
  return v;
}

// The same tensor, from one index of its second dimension on
View from_channel(View v, std::int64_t channel, std::int64_t channels) {
  if (v) v.data = static_cast<char*>(v.data) + channel * v.stride[1] * bytes_of(v.dtype);
  v.size[1] = channels;
  return v;
}

// How many channels and batch rows are processed at a time, so that their arrays stay below `bytes`.
struct Slice {
  static constexpr std::int64_t bytes = std::int64_t{208} << 20;
  std::int64_t channels, batch, row_stride;

  Slice(std::int64_t batch_size, std::int64_t length, std::int64_t arrays, std::int64_t number) {
    // Whole vectors, and an odd number of cache lines. Otherwise the rows of a block would compete for the same places
    // of the cache.
    row_stride = ((length * number + 63) / 64 | 1) * 64 / number;
    const std::int64_t row_bytes = arrays * row_stride * number;
    channels = group_channels;
    while (channels > 4 && channels * row_bytes > bytes) channels /= 2;
    batch = most(1, least(most(1, batch_size), bytes / (channels * row_bytes)));
  }
};

// Filter o of channels c …, as a tensor (channels, K)
View filters(const View& k, std::int64_t o, std::int64_t c, std::int64_t channels) {
  View v;
  if (!k) return v;
  v.data = static_cast<char*>(k.data) + (o * k.stride[0] + c * k.stride[1]) * bytes_of(k.dtype);
  v.dtype = k.dtype;
  v.size[0] = channels, v.size[1] = k.size[2];
  v.stride[0] = k.stride[1], v.stride[1] = k.stride[2];
  return v;
}

// Nodes of step o for channels c …, as a tensor (channels, 2p - 1, n)
View nodes_of(const MixerNodes& nodes, std::int64_t o, std::int64_t c, std::int64_t channels) {
  View v = nodes.first;
  v.data = static_cast<char*>(v.data) + (o * nodes.step + c * v.stride[0]) * bytes_of(v.dtype);
  v.size[0] = channels;
  return v;
}

// Long convolution o of the recurrence for channels c …, which gates its result.
template <class T>
void convolve_step(const MixerForward& args, std::int64_t o, std::int64_t c, std::int64_t channels, const View& signal,
                   const View& gate, const View& result) {
  constexpr bool wide = sizeof(T) == 8;
  const View k = filters(args.k, o, c, channels), skip = filters(args.skip, o, c, channels);
  if (args.nodes.given) {
    FarFieldForward step;
    step.y = result, step.u = signal, step.near = k, step.nodes = nodes_of(args.nodes, o, c, channels);
    step.skip = skip, step.post_gate = gate, step.wide = wide;
    return HYENA_KERNELS(far_field).forward(step, 0, channels);
  }
  FftconvForward step;
  step.y = result, step.u = signal, step.k = k, step.skip = skip, step.post_gate = gate, step.wide = wide;
  HYENA_KERNELS(fftconv).forward(step, 0, channels);
}

// The gradients of one long convolution, those of its filters as tensors of these channels
struct StepGradients {
  View signal, gate, k, skip, nodes;
};

template <class T>
void differentiate_step(const MixerBackward& args, std::int64_t o, std::int64_t c, std::int64_t channels,
                        const View& grad, const View& signal, const View& gate, const StepGradients& to) {
  constexpr bool wide = sizeof(T) == 8;
  const View k = filters(args.k, o, c, channels), skip = filters(args.skip, o, c, channels);
  if (args.nodes.given) {
    FarFieldBackward step;
    step.du = to.signal, step.dnear = to.k, step.dnodes = to.nodes, step.dskip = to.skip, step.dpost_gate = to.gate;
    step.dy = grad, step.u = signal, step.near = k, step.nodes = nodes_of(args.nodes, o, c, channels);
    step.skip = skip, step.post_gate = gate, step.wide = wide;
    return HYENA_KERNELS(far_field).backward(step, 0, channels);
  }
  FftconvBackward step;
  step.du = to.signal, step.dk = to.k, step.dskip = to.skip, step.dpost_gate = to.gate;
  step.dy = grad, step.u = signal, step.k = k, step.skip = skip, step.post_gate = gate, step.wide = wide;
  HYENA_KERNELS(fftconv).backward(step, 0, channels);
}

template <class T>
void mixer_forward(const MixerForward& args, std::int64_t first_group, std::int64_t last_group) {
  constexpr std::int64_t W = width<T>;
  const std::int64_t steps = args.k.size[0], batch = args.x.size[0];
  const Projection in(args.x, args.weight, args.bias, steps + 2);
  const Slice slice(batch, in.length, steps + 1, sizeof(T));
  const std::int64_t rows = slice.batch * slice.channels * slice.row_stride;
  T* memory = static_cast<T*>(
      scratch(For::mixer, ((steps + 1) * rows + tile_numbers<T>(in)) * sizeof(T)));
  T *value_rows = memory, *gate_rows = value_rows + rows, *tiles = gate_rows + steps * rows;
  const std::int64_t end = least(in.channels, last_group * group_channels);
  const bool plain_y = plain<T>(args.y);
  for (std::int64_t c = first_group * group_channels; c < end; c += slice.channels) {
    const std::int64_t channels = least(slice.channels, end - c);
    for (std::int64_t b = 0; b < batch; b += slice.batch) {
      const std::int64_t count = least(slice.batch, batch - b);
      const View value = memory_view(value_rows, count, channels, in.length, slice.row_stride);
      const View gates = memory_view(gate_rows, count, steps * channels, in.length, slice.row_stride);
      for (std::int64_t i = 0; i < count; ++i)
        project(in, b + i, c, channels, value, gates, channels, i, 0, tiles);
      for (std::int64_t o = 0; o < steps; ++o) {
        // A convolution reads what it needs of a row before it writes over it, so the result can take the row's place.
        const View gate = from_channel(gates, (steps - 1 - o) * channels, channels);
        convolve_step<T>(args, o, c, channels, value, gate, value);
      }
      for (std::int64_t i = 0; i < count; ++i) {
        for (std::int64_t t = 0; t < in.length; t += tile_rows) {
          const std::int64_t n = least(tile_rows, in.length - t);
          each_vector<T>(channels, [&](std::int64_t lane, std::int64_t lanes) {
            get_rows(value, i, lane, lanes, t, tiles, n);
            for (std::int64_t r = 0; r < n; ++r)
              put_lanes<T>(args.y, plain_y && lanes == W, b + i, t + r, c + lane, lanes, load(tiles + r * W));
          });
        }
      }
    }
  }
  trim_scratch(For::mixer);
}

template <class T>
void mixer_backward(const MixerBackward& args, std::int64_t first_group, std::int64_t last_group) {
  const std::int64_t steps = args.k.size[0], taps = args.k.size[2], batch = args.x.size[0];
  const Projection in(args.x, args.weight, args.bias, steps + 2);
  const bool for_taps = args.dweight || args.dbias, for_projections = args.dx || for_taps;
  const Slice slice(batch, in.length, 2 * steps + 1, sizeof(T));
  const bool sliced = slice.batch < batch;
  const std::int64_t rows = slice.batch * slice.channels * slice.row_stride;
  const std::int64_t node_rows = args.nodes.given ? args.nodes.first.size[1] : 0, node_count = node_rows * args.nodes.first.size[2];
  // Of a slice of channels: near taps or all taps, nodes, and skips
  const std::int64_t filter_count = sliced ? slice.channels * (taps + node_count + 1) : 0;
  MixerForward again;
  again.k = args.k, again.skip = args.skip, again.nodes = args.nodes;
  const std::int64_t sum_count = packed(in, group_channels);
  double* sums = static_cast<double*>(scratch(
      For::mixer, (sum_count + steps * filter_count) * sizeof(double) +
                      ((2 * steps + 1) * rows + filter_count + tile_numbers<T>(in) + 16) * sizeof(T)));
  double* filter_sums = sums + sum_count;
  // The scratch memory starts at a cache line. The vectors behind the sums have to do so too.
  T* memory = reinterpret_cast<T*>((reinterpret_cast<std::uintptr_t>(filter_sums + steps * filter_count) + 63) / 64 * 64);
  T *value_rows = memory, *gate_rows = value_rows + steps * rows, *grad_rows = gate_rows + steps * rows;
  T *tiles = grad_rows + rows, *filter_part = tiles + tile_numbers<T>(in);
  const std::int64_t end = least(in.channels, last_group * group_channels);
  for (std::int64_t c = first_group * group_channels; c < end; c += slice.channels) {
    const std::int64_t channels = least(slice.channels, end - c);
    std::memset(sums, 0, (sum_count + steps * filter_count) * sizeof(double));
    for (std::int64_t b = 0; b == 0 || b < batch; b += slice.batch) {
      const std::int64_t count = least(slice.batch, batch - b);
      const View gates = memory_view(gate_rows, count, steps * channels, in.length, slice.row_stride);
      const auto value = [&](std::int64_t o) {
        return memory_view(value_rows + o * rows, count, channels, in.length, slice.row_stride);
      };
      const auto gate = [&](std::int64_t o) { return from_channel(gates, (steps - 1 - o) * channels, channels); };
      View grad = memory_view(grad_rows, count, channels, in.length, slice.row_stride);
      for (std::int64_t i = 0; i < count; ++i) {
        project(in, b + i, c, channels, value(0), gates, channels, i, 0, tiles);
        for (std::int64_t t = 0; t < in.length; t += tile_rows) {
          const std::int64_t n = least(tile_rows, in.length - t);
          each_vector<T>(channels, [&](std::int64_t lane, std::int64_t lanes) {
            fill_tile(tiles, args.dy, b + i, c + lane, lanes, t, n);
            put_rows(grad, i, lane, lanes, t, tiles, n);
          });
        }
      }
      for (std::int64_t o = 0; o + 1 < steps; ++o)
        convolve_step<T>(again, o, c, channels, value(o), gate(o), value(o + 1));
      for (std::int64_t o = steps - 1; o >= 0; --o) {
        StepGradients to;
        // Each gradient takes the place of its tensor, which has been read by then.
        if (for_projections || o > 0) to.signal = value(o);
        if (for_projections) to.gate = gate(o);
        const View part = memory_view(filter_part, 1, slice.channels, taps, taps);
        const View node_part = memory_view(filter_part + slice.channels * taps, slice.channels, node_rows,
                                           args.nodes.first.size[2], args.nodes.first.size[2]);
        const View skip_part = memory_view(filter_part + slice.channels * (taps + node_count), 1, slice.channels, 1, 1);
        if (args.dk) to.k = sliced ? filters(part, 0, 0, channels) : filters(args.dk, o, c, channels);
        if (args.dskip) to.skip = sliced ? filters(skip_part, 0, 0, channels) : filters(args.dskip, o, c, channels);
        if (args.dnodes.given && node_count > 0) to.nodes = sliced ? node_part : nodes_of(args.dnodes, o, c, channels);
        differentiate_step<T>(args, o, c, channels, grad, value(o), gate(o), to);
        if (sliced) {
          // What is not asked for is not written: adding it would add what lies there.
          double* sum = filter_sums + o * filter_count;
          const auto add = [&](bool wanted, std::int64_t first, std::int64_t count) {
            for (std::int64_t i = first; wanted && i < first + count; ++i) sum[i] += filter_part[i];
          };
          add(static_cast<bool>(args.dk), 0, channels * taps);
          add(args.dnodes.given, slice.channels * taps, channels * node_count);
          add(static_cast<bool>(args.dskip), slice.channels * (taps + node_count), channels);
        }
        grad = value(o);
      }
      if (!for_projections) continue;
      for (std::int64_t i = 0; i < count; ++i)
        project_gradients(in, b + i, c, channels, value(0), gates, channels, i, 0, args.dx, for_taps ? sums : nullptr,
                          tiles);
    }
    if (for_taps) write_group_sums<T>(in, args.dweight, args.dbias, c, channels, sums);
    for (std::int64_t o = 0; sliced && o < steps; ++o) {
      const double* sum = filter_sums + o * filter_count;
      for (std::int64_t i = 0; i < channels; ++i) {
        if (args.dk) write(row(args.dk, o, c + i), 0, sum + i * taps, taps);
        for (std::int64_t m = 0; args.dnodes.given && m < node_rows; ++m)
          write(row(nodes_of(args.dnodes, o, c, channels), i, m), 0,
                sum + slice.channels * taps + (i * node_rows + m) * args.nodes.first.size[2], args.nodes.first.size[2]);
        if (args.dskip) write(row(args.dskip, o), c + i, sum + slice.channels * (taps + node_count) + i, 1);
      }
    }
  }
  trim_scratch(For::mixer);
}

}  // namespace
}  // namespace hyena
