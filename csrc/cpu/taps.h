// Short convolutions of rows, and of channel-last projections into the gates and signals of a Hyena operator.
#pragma once

#include "../common/view.h"
#include "fftconv.h"

namespace hyena {

constexpr int max_taps = 8;

// y[b, d, t] = bias[d] + sum_j weight[d, j] x[b, d, t - (K-1) + j]
struct ShortConvForward {
  View y, x;          // (B, D, L)
  View weight, bias;  // (D, K) and (D,) or absent
  bool wide = false;
};

struct ShortConvBackward {
  View dx, dweight, dbias;  // each perhaps absent
  View dy, x, weight;
  bool wide = false;
};

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

// y = p_0 * c_{N-1}, c_0 = p_N, c_{o+1} = k_o ⋆ (c_o p_{N-1-o}) + D_o (c_o p_{N-1-o}), channel-last.
struct MixerForward {
  View y, x, weight, bias;  // (B, L, d), and as above
  View k, skip;             // (N-1, d, K) and (N-1, d) or absent
  bool wide = false;
};

struct MixerBackward {
  View dx, dweight, dbias, dk, dskip;  // each perhaps absent
  View dy, x, weight, bias, k, skip;
  bool wide = false;
};

// Channels of one task of a mixer or projection: about a cache line of a channel-last row.
constexpr std::int64_t group_channels = 16;

// Each takes a range of tasks, and ranges may run in parallel. A task is a channel of a short convolution, else a group
// of channels.
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
