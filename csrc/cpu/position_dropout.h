// Dropout whose mask follows from seed, sample, position and channel, by Philox 4x32-10.
#pragma once

#include "../common/view.h"

namespace hyena {

// `y` and `x` have three dimensions: rows, positions and channels. `y` is contiguous.
struct PositionDropout {
  View y, x;
  const std::int64_t* samples;  // one for each row
  std::uint64_t seed;
  std::int64_t offset;     // position of the first column
  std::int64_t threshold;  // a word below it drops its element; from 0 to 2^32
  double scale;            // of the others
};

// Takes a range of rows and positions, which are counted together. Ranges may run in parallel.
struct PositionDropoutKernels {
  void (*run)(const PositionDropout&, std::int64_t first, std::int64_t last);
};

extern const PositionDropoutKernels position_dropout_avx512, position_dropout_avx2, position_dropout_portable;

}  // namespace hyena
