// Short convolutions of rows, and of channel-last projections into the gates and signals of a Hyena operator.
#pragma once

#include "../common/view.h"
#include "fftconv.h"

namespace hyena {

constexpr int max_taps = 8;
// Of a short convolution that is no part of a mixer
constexpr std::int64_t most_short_taps = 256;

// v = bias[d] + sum_j weight[d, j] x[b, d, t - (K-1) + j], and y = v, or y = v / (1 + exp(-v)). Samples of x before its
// start are those of `state`, or zero.
struct ShortConvForward {
  View y, x;          // (B, D, L)
  View weight, bias;  // (D, K) and (D,) or absent
  View state;         // (B, D, K - 1) or absent
  bool silu = false, wide = false;
};

struct ShortConvBackward {
  View dx, dweight, dbias, dstate;  // each perhaps absent
  View dy, x, weight, bias, state;
  bool silu = false, wide = false;
};

// Whether neighbouring channels of a tensor (B, D, L) are neighbours in memory, and neighbouring positions are not.
inline bool channel_last(const View& v) { return v.stride[1] == 1 && v.stride[2] != 1; }

// Channels of one task of a mixer or projection, and of a short convolution in groups: about a cache line of a
// channel-last row.
constexpr std::int64_t group_channels = 16;

// Whether a short convolution takes vectors of channels. For many taps it pays to transpose rows for that.
inline bool in_groups(const View& x, const View& weight) {
  return channel_last(x) || (weight.size[1] > 16 && x.size[1] >= group_channels);
}

// p is the short convolution of x along L, split into N + 1 parts p_0 … p_N of d channels. first = p_N * p_{N-1}, and
// the gates are p_0 … p_{N-2}. All results are channel-first.
struct ProjectForward {
  View first;                // (B, d, L)
  View gates;                // (B, (N-1) d, L), p_0 in front
  View x, weight, bias;      // (B, L, (N+1) d), ((N+1) d, K), ((N+1) d,) or absent
  bool wide = false;
};

struct ProjectBackward {
  View dx, dweight, dbias;  // each perhaps absent
  View dfirst, dgates;
  View x, weight, bias;
  bool wide = false;
};

// Nodes (N-1, d, 2p - 1, n) of filters that are known by near taps and nodes, or none of any step
struct MixerNodes {
  bool given = false;
  View first;             // (d, 2p - 1, n) of step 0
  std::int64_t step = 0;  // elements between steps
};

// y = p_0 * c_{N-1}, c_0 = p_N, c_{o+1} = k_o ⋆ (c_o p_{N-1-o}) + D_o (c_o p_{N-1-o}), channel-last.
struct MixerForward {
  View y, x, weight, bias;  // (B, L, d), and as above
  View k, skip;             // (N-1, d, K) and (N-1, d) or absent
  MixerNodes nodes;         // with nodes, k holds the near taps
  bool wide = false;
};

struct MixerBackward {
  View dx, dweight, dbias, dk, dskip;  // each perhaps absent
  View dy, x, weight, bias, k, skip;
  MixerNodes dnodes, nodes;
  bool wide = false;
};

// Each takes a range of tasks, and ranges may run in parallel. Those of a short convolution are channels, and all but the
// last end of a range lie between groups where it is in_groups(). Other tasks are groups of channels.
struct TapsKernels {
  void (*short_conv_forward)(const ShortConvForward&, std::int64_t first, std::int64_t last);
  void (*short_conv_backward)(const ShortConvBackward&, std::int64_t first, std::int64_t last);
  void (*project_forward)(const ProjectForward&, std::int64_t first, std::int64_t last);
  void (*project_backward)(const ProjectBackward&, std::int64_t first, std::int64_t last);
  void (*mixer_forward)(const MixerForward&, std::int64_t first, std::int64_t last);
  void (*mixer_backward)(const MixerBackward&, std::int64_t first, std::int64_t last);
};

extern const TapsKernels taps_avx512, taps_avx2, taps_portable;

}  // namespace hyena
