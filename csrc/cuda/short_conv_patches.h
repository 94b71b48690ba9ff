// The functions of short_conv.h, for at most four taps and tensors whose rows begin at multiples of 16 bytes. For other
// tensors they return false and launch nothing.
#pragma once

#include "short_conv.h"

namespace hyena {

bool short_conv_forward_patches(const ShortConvForward& args, Stream stream);
bool short_conv_backward_patches(const ShortConvBackward& args, Stream stream);
bool transpose_patches(const Transpose& args, Stream stream);

}  // namespace hyena
