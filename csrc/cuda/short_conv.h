// Short causal depthwise convolutions of `parts` slices of channels that lie side by side, and the product of two of
// them: y[t] = bias + sum_j weight[j] x[t - (K-1) + j], x zero before its start. Any order of dimensions on both sides.
#pragma once

#include "runtime.cuh"

namespace hyena {

constexpr int most_taps = 8;

// Part p of x is x_part elements behind part 0, and has rows p · row_part … of weight and bias. With `pair` the last
// result is the product of the last two parts, of which x has one more than y.
struct ShortConvForward {
  View y, x;          // (B, C, L), of part 0
  View weight, bias;  // (C', K), (C',) or absent
  int64_t parts, x_part, row_part, y_part;
  bool pair;
};

// Of one part, or of the product of a pair. Gradients with a null pointer are not computed.
struct ShortConvBackward {
  View dx;            // (B, C, L), of the first part
  View sums;          // (spans, parts · (K + 1), C), float32: of weight and bias, to be added up
  View dy, x;         // (B, C, L)
  View weight, bias;  // (C', K), (C',) or absent
  int64_t x_part, row_part, dx_part;
  int64_t spans;      // sums of a batch entry: a block takes a tile of channels along a span of positions
  bool pair;
};

// y = x in another order of dimensions.
struct Transpose {
  View y, x;  // (B, C, L)
};

void short_conv_forward(const ShortConvForward& args, Stream stream);
void short_conv_backward(const ShortConvBackward& args, Stream stream);
void transpose(const Transpose& args, Stream stream);

}  // namespace hyena
