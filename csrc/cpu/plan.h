// Sizes and tables of the transform modulo z^P - i, which transform.inl explains.
#pragma once

#include <cstdint>

namespace hyena {

// The transform of P points starts with one pass of radix `top`. Passes of radix 2, 4 and 8 follow, until blocks have
// `width` points, the vector width. The leaves transform these blocks.
template <class T>
struct Plan {
  static constexpr int max_passes = 12;

  std::int64_t points = 0;         // P = top * block
  int top = 0;                     // 4 to 8
  std::int64_t block = 0;          // a power of two
  int width = 0;
  int passes = 0;
  int radix[max_passes] = {};      // pass l splits nodes of radix[l] * length[l] points
  std::int64_t length[max_passes] = {};
  const T* twiddles[max_passes] = {};  // (nodes, radix - 1, re and im)
  const T* top_twiddles = nullptr;     // (top, re and im)
  const T* leaves = nullptr;           // (groups, exponents, re and im, width)
  std::int64_t groups = 0;         // each has `width` blocks of `width` points, the last one perhaps fewer
};

// A power s^n with n below the vector width is s^(4h) * s^l. The tables hold these exponents.
constexpr int leaf_exponents(int width) { return width == 16 ? 6 : width == 8 ? 4 : width - 1; }
constexpr int leaf_exponent(int index) { return index < 3 ? index + 1 : 4 * (index - 2); }

// The plan for signals of up to `length` points and vectors of `width` lanes. Plans are kept for later calls while all
// of them together stay below a bound. Every plan has to be released.
template <class T>
const Plan<T>* acquire_plan(std::int64_t length, int width);

template <class T>
void release_plan(const Plan<T>* plan);

}  // namespace hyena
