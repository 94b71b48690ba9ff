// Filters k[c, n] = (w_out h_n)[c] (exp(-t[n] |deltas[c]|) + shift), where h_n is a sine network of the features z[n],
// and the elementwise parts of the backward pass. All in float32.
#pragma once

#include "runtime.cuh"

namespace hyena {

constexpr int64_t widest_network = 128;

// Weights are transposed: a layer reads rows of neighbouring outputs.
struct FilterForward {
  View k;           // (D, L)
  View z;           // (L, E), E up to widest_network
  View freq;        // (H,), H up to widest_network
  View w_in, b_in;  // (E, H), (H,)
  View w_hidden;    // (M, H, H)
  View b_hidden;    // (M, H)
  View w_out;       // (H, D)
  View t, deltas;   // (L,), (D,), or both absent
  float shift;
};

// sine = sin(freq linear), (H, N).
struct FilterSine {
  View sine, linear, freq;
};

// grad = grad cos(freq linear) freq, in place, and each block's part of dfreq, (H, blocks of a row).
struct FilterSineBackward {
  View grad, sums, linear, freq;
};

// dh = dk (exp(-t |deltas|) + shift), (D, N), and decayed = dk exp(-t |deltas|) unless it is absent.
struct FilterWindow {
  View dh, decayed, dk, t, deltas;
  float shift;
};

// The number of blocks that filter_sine_backward uses for a row of `count` elements
int64_t filter_blocks(int64_t count);

void filter_forward(const FilterForward& args, Stream stream);
void filter_sine(const FilterSine& args, Stream stream);
void filter_sine_backward(const FilterSineBackward& args, Stream stream);
void filter_window(const FilterWindow& args, Stream stream);

}  // namespace hyena
