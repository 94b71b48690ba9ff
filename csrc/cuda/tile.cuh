// Tiles of channels × positions in shared memory. They are read from and written to tensors of either order, 16 bytes
// at a time if one of the two dimensions is contiguous and aligned.
#pragma once

#include "element.cuh"

namespace hyena {

constexpr int tile_channels = 32, tile_positions = 64, tile_threads = 256;
// Positions in front of a tile, and behind it if there are any. Taps reach 7 positions, and vectors begin at multiples
// of 8.
constexpr int tile_margin = 8;

// Floats per channel of a tile with `width` positions, a multiple of 4. With one more, neither 8 channels of 4
// neighbouring threads nor neighbouring positions are in the same bank.
template <int width>
constexpr int tile_stride = width + 1;

template <int width>
constexpr int tile_floats = tile_channels* tile_stride<width>;

enum class Access : int { positions, channels, position_vectors, channel_vectors };

// A tensor (B, C, L), and how it is best read. A part of it may begin `part` elements later.
struct TileView {
  View view;
  Access access;
};

inline TileView tile_view(const View& view, int64_t part = 0) {
  const int64_t lanes = view.dtype == Dtype::f32 ? 4 : 8;
  const auto aligned = [&](int64_t across) {
    return reinterpret_cast<uintptr_t>(view.data) % 16 == 0 && across % lanes == 0 && view.stride[0] % lanes == 0 &&
           part % lanes == 0;
  };
  if (view.stride[2] == 1) return {view, aligned(view.stride[1]) ? Access::position_vectors : Access::positions};
  if (view.stride[1] == 1) return {view, aligned(view.stride[2]) ? Access::channel_vectors : Access::channels};
  return {view, view.stride[2] < view.stride[1] ? Access::positions : Access::channels};
}

// The address of element 0 of a batch entry and tile of channels, and how much of the tile exists
struct TileAt {
  Row origin;  // step: between channels
  int64_t position_step;
  int channels;    // that exist from the tile's first one on
  int64_t length;  // of the tensor, in positions
  Access access;
};

HYENA_DEVICE TileAt tile_at(const TileView& tile, int64_t b, int64_t channel, int64_t part) {
  const View& v = tile.view;
  const int64_t offset = b * v.stride[0] + channel * v.stride[1] + part;
  const int64_t left = v.size[1] - channel;
  return {{static_cast<const char*>(v.data) + offset * size_of(v.dtype), v.stride[1], v.dtype},
          v.stride[2],
          left < tile_channels ? static_cast<int>(left) : tile_channels,
          v.size[2],
          tile.access};
}

// Calls f(index in memory, number of elements, index in the tile, distance in the tile) for all existing elements of
// `count` positions from `first` on. The tile holds the first position at `column`. A call has one element, or up to
// `lanes` elements that are neighbours in memory.
template <int stride, int lanes, class F>
HYENA_DEVICE void for_tile(const TileAt& at, int64_t first, int count, int column, F&& f) {
  const bool by_channel = at.access == Access::channels || at.access == Access::channel_vectors;
  const bool vectors = at.access == Access::position_vectors || at.access == Access::channel_vectors;
  const int width = vectors ? lanes : 1;
  const int inner = (by_channel ? tile_channels : count) / width;
  for (int i = threadIdx.x; i < (by_channel ? count * inner : tile_channels * inner); i += tile_threads) {
    const int outer = i / inner, start = i % inner * width;
    const int channel = by_channel ? start : outer, position = by_channel ? outer : start;
    const int64_t t = first + position;
    const int64_t index = channel * at.origin.step + t * at.position_step;
    const int place = channel * stride + column + position, distance = by_channel ? stride : 1;
    f(index, by_channel, channel, t, width, place, distance);
  }
}

template <int lanes>
HYENA_DEVICE void decode(float* value, uint4 bits, Dtype dtype) {
  const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
  HYENA_UNROLL
  for (int i = 0; i < 4; ++i) {
    if constexpr (lanes == 4) {
      value[i] = float_from_word(words[i]);
    } else {
      value[2 * i] = from_bits(static_cast<uint16_t>(words[i] & 0xffff), dtype);
      value[2 * i + 1] = from_bits(static_cast<uint16_t>(words[i] >> 16), dtype);
    }
  }
}

template <int lanes>
HYENA_DEVICE uint4 encode(const float* value, Dtype dtype) {
  uint32_t words[4];
  HYENA_UNROLL
  for (int i = 0; i < 4; ++i) {
    if constexpr (lanes == 4)
      words[i] = word_from_float(value[i]);
    else
      words[i] = to_bits(value[2 * i], dtype) | static_cast<uint32_t>(to_bits(value[2 * i + 1], dtype)) << 16;
  }
  return {words[0], words[1], words[2], words[3]};
}

template <int width, int lanes>
HYENA_DEVICE void load_tile_lanes(float* tile, const TileAt& at, int64_t first) {
  constexpr int stride = tile_stride<width>;
  for_tile<stride, lanes>(at, first, width, 0, [&](int64_t index, bool by_channel, int channel, int64_t t, int count,
                                                   int place, int distance) {
    const auto exists = [&](int e) {
      const int64_t position = by_channel ? t : t + e;
      return (by_channel ? channel + e : channel) < at.channels && position >= 0 && position < at.length;
    };
    if (count == lanes && exists(0) && exists(lanes - 1)) {
      float value[lanes];
      const char* address = static_cast<const char*>(at.origin.data) + index * (16 / lanes);
      decode<lanes>(value, *reinterpret_cast<const uint4*>(address), at.origin.dtype);
      HYENA_UNROLL
      for (int e = 0; e < lanes; ++e) tile[place + e * distance] = value[e];
      return;
    }
    const Row row = {at.origin.data, 1, at.origin.dtype};
    for (int e = 0; e < count; ++e) tile[place + e * distance] = exists(e) ? load_element(row, index + e) : 0.0f;
  });
}

template <int width, int lanes>
HYENA_DEVICE void store_tile_lanes(const float* tile, const TileAt& at, int64_t first, int column) {
  constexpr int stride = tile_stride<width>;
  for_tile<stride, lanes>(at, first, tile_positions, column, [&](int64_t index, bool by_channel, int channel, int64_t t,
                                                                 int count, int place, int distance) {
    const auto exists = [&](int e) {
      return (by_channel ? channel + e : channel) < at.channels && (by_channel ? t : t + e) < at.length;
    };
    if (count == lanes && exists(lanes - 1)) {
      float value[lanes];
      HYENA_UNROLL
      for (int e = 0; e < lanes; ++e) value[e] = tile[place + e * distance];
      char* address = static_cast<char*>(const_cast<void*>(at.origin.data)) + index * (16 / lanes);
      *reinterpret_cast<uint4*>(address) = encode<lanes>(value, at.origin.dtype);
      return;
    }
    const Row row = {at.origin.data, 1, at.origin.dtype};
    for (int e = 0; e < count; ++e)
      if (exists(e)) store_element(row, index + e, tile[place + e * distance]);
  });
}

// tile[c, i] = tensor[first + i], and zero where there is no element. All threads of the block call this; it has no
// barrier.
template <int width>
HYENA_DEVICE void load_tile(float* tile, const TileAt& at, int64_t first) {
  if (at.origin.dtype == Dtype::f32)
    load_tile_lanes<width, 4>(tile, at, first);
  else
    load_tile_lanes<width, 8>(tile, at, first);
}

// tensor[first + i] = tile[c, column + i] for i in 0 … tile_positions-1
template <int width>
HYENA_DEVICE void store_tile(const float* tile, const TileAt& at, int64_t first, int column) {
  if (at.origin.dtype == Dtype::f32)
    store_tile_lanes<width, 4>(tile, at, first, column);
  else
    store_tile_lanes<width, 8>(tile, at, first, column);
}

}  // namespace hyena
