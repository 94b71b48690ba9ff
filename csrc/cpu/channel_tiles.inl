// Tiles of a channel-last tensor, and their way to channel-first rows and back.
//
// A tile holds one vector of channels for each of its positions, so a tap needs no shift within vectors. Blocks of as
// many positions as a vector has lanes are transposed on the way to rows.
#pragma once

#include "rows.h"
#include "taps.h"

namespace hyena {
namespace {

template <class T>
constexpr int width = Simd<T>::width;

// Positions in front of a tile that its taps read, and positions behind it whose gradients reach into it. At least
// max_taps - 1.
constexpr std::int64_t history = 8;
constexpr std::int64_t tile_rows = 64;

HYENA_INLINE std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
HYENA_INLINE std::int64_t most(std::int64_t a, std::int64_t b) { return a < b ? b : a; }

template <class T>
constexpr Dtype dtype_of() {
  return sizeof(T) == 4 ? Dtype::f32 : Dtype::f64;
}

template <class T>
bool plain(const View& v) {
  return v.dtype == dtype_of<T>() && v.stride[2] == 1;
}

// Channels c, c + 1, … of one position of a channel-last tensor, as a row
Row lanes_at(const View& v, std::int64_t b, std::int64_t t, std::int64_t c) {
  const std::int64_t at = b * v.stride[0] + t * v.stride[1] + c * v.stride[2];
  return {static_cast<char*>(v.data) + at * bytes_of(v.dtype), v.dtype, v.stride[2]};
}

// Vector r of the tile receives channels c … c + lanes - 1 of position first + r. It is zero outside the sequence.
template <class T>
void fill_tile(T* tile, const View& x, std::int64_t b, std::int64_t c, std::int64_t lanes, std::int64_t first,
               std::int64_t rows) {
  constexpr int W = width<T>;
  const bool fast = plain<T>(x) && lanes == W;
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::int64_t t = first + r;
    if (t < 0 || t >= x.size[1]) {
      store(tile + r * W, Vec<T>{});
    } else if (fast) {
      const T* from = static_cast<const T*>(x.data) + b * x.stride[0] + t * x.stride[1] + c;
      store(tile + r * W, load_unaligned(from));
      // Rows are far apart in memory, and the processor does not foresee their cache lines.
      __builtin_prefetch(from + tile_rows * x.stride[1]);
    } else {
      store(tile + r * W, Vec<T>{});
      read<With::set>(tile + r * W, lanes_at(x, b, t, c), 0, lanes);
    }
  }
}

template <class T>
HYENA_INLINE void put_lanes(const View& y, bool fast, std::int64_t b, std::int64_t t, std::int64_t c,
                            std::int64_t lanes, Vec<T> value) {
  if (fast) {
    T* to = static_cast<T*>(y.data) + b * y.stride[0] + t * y.stride[1] + c;
    store_unaligned(to, value);
    __builtin_prefetch(to + tile_rows * y.stride[1], 1);
  } else {
    alignas(64) T values[width<T>];
    store(values, value);
    write(lanes_at(y, b, t, c), 0, values, lanes);
  }
}

// Writes `rows` vectors of a tile to rows c … of a channel-first tensor, from position t on.
template <class T>
void put_rows(const View& v, std::int64_t b, std::int64_t c, std::int64_t lanes, std::int64_t t, const T* tile,
              std::int64_t rows) {
  constexpr int W = width<T>;
  const bool fast = plain<T>(v);
  for (std::int64_t r = 0; r < rows; r += W) {
    Vec<T> block[W];
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) block[i] = load(tile + (r + i) * W);
    transpose<T>(block);
    const std::int64_t n = least(W, rows - r);
    if (fast && n == W && lanes == W) {
      T* out = static_cast<T*>(v.data) + b * v.stride[0] + c * v.stride[1] + t + r;
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) store_unaligned(out + i * v.stride[1], block[i]);
      continue;
    }
    for (std::int64_t i = 0; i < lanes; ++i) {
      alignas(64) T values[W];
      store(values, block[i]);
      write(row(v, b, c + i), t + r, values, n);
    }
  }
}

// Reads them back, with zeros behind the end of the rows. It fills whole blocks: `rows` is rounded up to the vector
// width.
template <class T>
void get_rows(const View& v, std::int64_t b, std::int64_t c, std::int64_t lanes, std::int64_t t, T* tile,
              std::int64_t rows) {
  constexpr int W = width<T>;
  const bool fast = plain<T>(v);
  for (std::int64_t r = 0; r < rows; r += W) {
    Vec<T> block[W];
    const std::int64_t n = least(W, v.size[2] - t - r);
    if (fast && n == W && lanes == W) {
      const T* in = static_cast<const T*>(v.data) + b * v.stride[0] + c * v.stride[1] + t + r;
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) block[i] = load_unaligned(in + i * v.stride[1]);
    } else {
      for (int i = 0; i < W; ++i) {
        alignas(64) T values[W] = {};
        if (i < lanes && n > 0) read<With::set>(values, row(v, b, c + i), t + r, n);
        block[i] = load(values);
      }
    }
    transpose<T>(block);
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) store(tile + (r + i) * W, block[i]);
  }
}

}  // namespace
}  // namespace hyena
