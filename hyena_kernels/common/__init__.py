"""What the ops and every backend share: sizes of transforms, slices that bound memory, gradients, taps."""
