// Short causal depthwise convolutions of `parts` neighbouring slices of channels, and the product of two of them:
// y[t] = bias + sum_j weight[j] x[t - (K-1) + j], where x is zero before its start. Input and output may have any order
// of dimensions.
#pragma once

#include "runtime.cuh"

namespace hyena {

constexpr int most_taps = 8;

// Part p of x starts p · x_part elements behind part 0, and uses rows p · row_part … of weight and bias. With `pair`
// the last result is the product of the last two parts, so x has one part more than y.
struct ShortConvForward {
  View y, x;          // (B, C, L), part 0
  View weight, bias;  // (C', K), (C',) or absent
  int64_t parts, x_part, row_part, y_part;
  bool pair;
};

// For one part, or for the product of a pair. Gradients with a null pointer are not computed.
struct ShortConvBackward {
  View dx;            // (B, C, L), the first part
  View sums;          // (spans, parts · (K + 1), C), float32: parts of the gradients of weight and bias
  View dy, x;         // (B, C, L)
  View weight, bias;  // (C', K), (C',) or absent
  int64_t x_part, row_part, dx_part;
  int64_t spans;      // spans of a batch entry: a block sums a tile of channels along a span of positions
  bool pair;
};

// y = x, in another order of dimensions
struct Transpose {
  View y, x;  // (B, C, L)
};

void short_conv_forward(const ShortConvForward& args, Stream stream);
void short_conv_backward(const ShortConvBackward& args, Stream stream);
void transpose(const Transpose& args, Stream stream);

}  // namespace hyena
