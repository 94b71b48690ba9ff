// Patches of a few channels × 8 positions in the registers of one thread. They are read and written 4 to 16 bytes at a
// time. Either the channels or the positions of the tensor are neighbours in memory. A patch changes from one order to
// the other without shared memory or a barrier: the compiler knows the register of each element.
#pragma once

#include "element.cuh"

namespace hyena {

constexpr int patch_positions = 8;

template <Dtype dtype>
constexpr int element_bytes = dtype == Dtype::f32 ? 4 : 2;

// The number of elements in 16 bytes
template <Dtype dtype>
constexpr int vector_lanes = 16 / element_bytes<dtype>;

// `count` elements that are neighbours in memory, as words
template <Dtype dtype, int count>
struct Neighbours {
  static constexpr int words = count * element_bytes<dtype> / 4;
  uint32_t word[words];

  HYENA_DEVICE float get(int i) const {
    if constexpr (dtype == Dtype::f32) return float_from_word(word[i]);
    if constexpr (dtype == Dtype::bf16)
      return float_from_word(i % 2 ? word[i / 2] & 0xffff0000u : word[i / 2] << 16);
    return half_to_float(static_cast<uint16_t>(i % 2 ? word[i / 2] >> 16 : word[i / 2] & 0xffffu));
  }

  // Elements i and i + 1, for an even i.
  HYENA_DEVICE void set_two(int i, float first, float second) {
    if constexpr (dtype == Dtype::f32) {
      word[i] = word_from_float(first);
      word[i + 1] = word_from_float(second);
    } else {
      word[i / 2] = pair_from_floats<dtype>(first, second);
    }
  }

  // The bits of an element, in the lower half
  HYENA_DEVICE uint32_t bits(int i) const {
    if constexpr (dtype == Dtype::f32) return word[i];
    return i % 2 ? word[i / 2] >> 16 : word[i / 2] & 0xffffu;
  }

  // Sets elements i and i + 1, for an even i.
  HYENA_DEVICE void copy_two(int i, uint32_t first, uint32_t second) {
    if constexpr (dtype == Dtype::f32)
      word[i] = first, word[i + 1] = second;
    else
      word[i / 2] = first | second << 16;
  }

  HYENA_DEVICE void clear() {
    HYENA_UNROLL
    for (int i = 0; i < words; ++i) word[i] = 0;
  }

  // The address is a multiple of 16 bytes, or of the size of all elements if that is less.
  HYENA_DEVICE void load(const char* from) {
    static_assert(words <= 2 || words % 4 == 0, "elements have to fill vectors of 4, 8 or 16 bytes");
    if constexpr (words == 1) {
      word[0] = *reinterpret_cast<const uint32_t*>(from);
    } else if constexpr (words == 2) {
      const uint2 bits = *reinterpret_cast<const uint2*>(from);
      word[0] = bits.x, word[1] = bits.y;
    } else {
      HYENA_UNROLL
      for (int i = 0; i < words; i += 4) {
        const uint4 bits = reinterpret_cast<const uint4*>(from)[i / 4];
        word[i] = bits.x, word[i + 1] = bits.y, word[i + 2] = bits.z, word[i + 3] = bits.w;
      }
    }
  }

  HYENA_DEVICE void store(char* to) const {
    if constexpr (words == 1) {
      *reinterpret_cast<uint32_t*>(to) = word[0];
    } else if constexpr (words == 2) {
      *reinterpret_cast<uint2*>(to) = uint2{word[0], word[1]};
    } else {
      HYENA_UNROLL
      for (int i = 0; i < words; i += 4)
        reinterpret_cast<uint4*>(to)[i / 4] = uint4{word[i], word[i + 1], word[i + 2], word[i + 3]};
    }
  }

  // The first `exist` elements, and zeros behind them. The alignment is that of `load`.
  HYENA_DEVICE void load_first(const char* from, int64_t exist) {
    if (exist >= count) return load(from);
    clear();
    HYENA_UNROLL
    for (int i = 0; i < count; ++i) {
      if (i >= exist) break;
      if constexpr (dtype == Dtype::f32)
        word[i] = reinterpret_cast<const uint32_t*>(from)[i];
      else
        word[i / 2] |= static_cast<uint32_t>(reinterpret_cast<const uint16_t*>(from)[i]) << (16 * (i % 2));
    }
  }

  HYENA_DEVICE void store_first(char* to, int64_t exist) const {
    if (exist >= count) return store(to);
    HYENA_UNROLL
    for (int i = 0; i < count; ++i) {
      if (i >= exist) break;
      if constexpr (dtype == Dtype::f32)
        reinterpret_cast<uint32_t*>(to)[i] = word[i];
      else
        reinterpret_cast<uint16_t*>(to)[i] = static_cast<uint16_t>(word[i / 2] >> (16 * (i % 2)));
    }
  }
};

// Rows of channels, one per position, or rows of positions, one per channel: the address of element 0, and the bytes
// from one row to the next.
struct PatchRows {
  char* data;
  int64_t step;
};

// The rows of batch entry b from a channel on, moved by `part` elements
template <Dtype dtype, bool channels_last>
HYENA_DEVICE PatchRows patch_rows(const View& view, int64_t b, int64_t channel, int64_t part) {
  const int64_t offset = b * view.stride[0] + channel * view.stride[1] + part;
  return {static_cast<char*>(view.data) + offset * element_bytes<dtype>,
          view.stride[channels_last ? 2 : 1] * element_bytes<dtype>};
}

// Positions from -before to 7 + after around a patch, in `channels` neighbouring channels. They are zero outside
// 0 … length-1.
template <Dtype dtype, bool channels_last, int channels, int before, int after>
struct Window;

template <Dtype dtype, int channels, int before, int after>
struct Window<dtype, true, channels, before, after> {
  static constexpr int count = before + patch_positions + after;
  Neighbours<dtype, channels> row[count];

  // Rows that are further than `reach` from the patch are not read.
  HYENA_DEVICE void load(const PatchRows& rows, int64_t t, int64_t length, int reach) {
    HYENA_UNROLL
    for (int i = 0; i < count; ++i) {
      const int64_t position = t + i - before;
      const bool far = i < before - reach || i >= before + patch_positions + reach;
      if (position >= 0 && position < length && !far)
        row[i].load(rows.data + position * rows.step);
      else
        row[i].clear();
    }
  }

  HYENA_DEVICE float get(int channel, int i) const { return row[i + before].get(channel); }
};

template <Dtype dtype, int channels, int before, int after>
struct Window<dtype, false, channels, before, after> {
  static_assert(channels == 1 && before <= patch_positions && after <= patch_positions, "one row, and its neighbours");
  Neighbours<dtype, patch_positions> previous, here, next;

  HYENA_DEVICE void load(const PatchRows& rows, int64_t t, int64_t length, int) {
    constexpr int64_t bytes = patch_positions * element_bytes<dtype>;
    const char* from = rows.data + t * element_bytes<dtype>;
    here.load_first(from, length - t);
    if constexpr (before > 0) {
      if (t > 0 && t - patch_positions < length)
        previous.load(from - bytes);
      else
        previous.clear();
    }
    if constexpr (after > 0) next.load_first(from + bytes, length - t - patch_positions);
  }

  HYENA_DEVICE float get(int, int i) const {
    return i < 0 ? previous.get(i + patch_positions) : i < patch_positions ? here.get(i) : next.get(i - patch_positions);
  }
};

}  // namespace hyena
