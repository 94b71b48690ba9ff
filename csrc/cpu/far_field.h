// Long convolutions by near field and far field, and their gradients: y = post_gate * ((pre_gate * u) ⋆ f + skip), where
// the filter f is known by its first h taps and by nodes. hyena_kernels/common/far_field.py says which nodes. There is
// one set of kernels for each instruction set.
#pragma once

#include "../common/view.h"

namespace hyena {

constexpr std::int64_t most_nodes = 16, most_block = 1024;  // largest p and h that the kernels take

struct FarFieldForward {
  View y, u;                 // (B, D, L)
  View near, nodes;          // (D, h), (D, 2p - 1, N)
  View skip;                 // (D,) or absent
  View pre_gate, post_gate;  // (B, D, L) or absent
  bool wide = false;         // compute in float64, not in float32
};

// A gradient with a null pointer is not computed.
struct FarFieldBackward {
  View du, dnear, dnodes, dskip, dpre_gate, dpost_gate;
  View dy, u, near, nodes, skip, pre_gate, post_gate;
  bool wide = false;
};

// Both take a range of channels, and ranges may run in parallel.
struct FarFieldKernels {
  void (*forward)(const FarFieldForward&, std::int64_t first, std::int64_t last);
  void (*backward)(const FarFieldBackward&, std::int64_t first, std::int64_t last);
};

extern const FarFieldKernels far_field_avx512, far_field_avx2, far_field_portable;

}  // namespace hyena
