// One position of the mixer, for decoding: short convolutions, gates, and the windows of the long convolutions.
#pragma once

#include "../common/view.h"

namespace hyena {

// With C = (N+1) d, K short taps, t0 = t - t mod window, and p = bias + weight · (state, x) split into p_0 … p_N:
// c_0 = p_N, u_o[t] = c_o p_{N-1-o}, c_{o+1} = future_o[t] + sum_{s = t0 … t} taps_o[t - s] u_o[s], y = p_0 * c_{N-1}.
// The state is moved on by one position.
struct MixerStep {
  View y, x;          // (B, d), contiguous, and (B, C)
  View state;         // (B, C, K-1), the oldest position first
  View weight, bias;  // (C, K), and (C,) or absent
  View u, future;     // (B, d, G) of the first recurrence; computed in their dtype
  View taps;          // (N-1, d, G), of their dtype
  std::int64_t u_stride = 0, future_stride = 0;  // from one recurrence to the next, in elements
  std::int64_t t = 0, window = 1;
};

// Channels of one task, all of one batch entry
constexpr std::int64_t step_channels = 64;

struct MixerStepKernels {
  // It takes a range of tasks, those of the first batch entry in front. Ranges may run in parallel.
  void (*run)(const MixerStep&, std::int64_t first, std::int64_t last);
};

extern const MixerStepKernels mixer_step_avx512, mixer_step_avx2, mixer_step_portable;

}  // namespace hyena
