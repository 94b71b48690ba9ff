// Dropout by Philox 4x32-10, which is computed for a vector of counters at a time.
//
// Each 64-bit lane of a vector holds one word of a counter in its low half. The product of two low halves is one
// instruction, and it ignores the high halves. So what lies there never has to be cleared.
//
// Source: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011, section 5.3.
#include "position_dropout.h"
#include "rows.h"

namespace hyena {
namespace {

typedef std::uint64_t Words __attribute__((vector_size(HYENA_VECTOR_BYTES)));
constexpr std::int64_t word_lanes = HYENA_VECTOR_BYTES / 8;

// Vectors that are under way together, because a round waits for the products of the round before.
constexpr std::int64_t word_vectors = HYENA_VECTOR_BYTES == 64 ? 4 : 2;

// Channels of one call of random_words: four for each counter
constexpr std::int64_t word_block = 4 * word_lanes * word_vectors;

// Channels of a row that are read, dropped and written at a time
constexpr std::int64_t dropout_stretch = 512;
static_assert(dropout_stretch % word_block == 0, "the last call of a stretch fills its end");

HYENA_INLINE Words splat(std::uint32_t word) { return Words{} + word; }

// 64-bit products of the low halves
HYENA_INLINE Words product(Words a, Words b) {
#if HYENA_VECTOR_BYTES == 64
  return (Words)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#elif HYENA_VECTOR_BYTES == 32
  return (Words)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(__x86_64__)
  return (Words)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
  return (a & splat(0xffffffff)) * (b & splat(0xffffffff));
#endif
}

// Stores a[0] b[0] a[1] b[1] …
HYENA_INLINE void store_alternating(std::uint32_t* out, Words a, Words b) {
  std::uint64_t pairs[2 * word_lanes];
#if defined(__clang__)
  // Clang's shuffle takes only constant indices, and these depend on the width.
  for (int i = 0; i < word_lanes; ++i) pairs[2 * i] = a[i], pairs[2 * i + 1] = b[i];
#else
  Words low, high;
#pragma GCC unroll 8
  for (int i = 0; i < word_lanes; ++i) {
    const int first = i / 2, second = (i + word_lanes) / 2;
    low[i] = i % 2 ? first + word_lanes : first;
    high[i] = i % 2 ? second + word_lanes : second;
  }
  const Words halves[2] = {__builtin_shuffle(a, b, low), __builtin_shuffle(a, b, high)};
  std::memcpy(pairs, halves, sizeof pairs);
#endif
  std::memcpy(out, pairs, sizeof pairs);
}

// The words of word_block channels, from channel 4 * group on
HYENA_INLINE void random_words(std::uint32_t* out, std::int64_t group, std::uint32_t position, std::uint64_t sample,
                               std::uint64_t seed) {
  Words c0[word_vectors], c1[word_vectors], c2[word_vectors], c3[word_vectors];
  Words lanes;
#pragma GCC unroll 8
  for (int i = 0; i < word_lanes; ++i) lanes[i] = i;
#pragma GCC unroll 4
  for (int v = 0; v < word_vectors; ++v) {
    c0[v] = lanes + static_cast<std::uint64_t>(group + v * word_lanes);
    c1[v] = splat(position);
    c2[v] = splat(static_cast<std::uint32_t>(sample));
    c3[v] = splat(static_cast<std::uint32_t>(sample >> 32));
  }
  std::uint32_t key0 = static_cast<std::uint32_t>(seed), key1 = static_cast<std::uint32_t>(seed >> 32);
  const Words factor0 = splat(0xd2511f53), factor2 = splat(0xcd9e8d57);
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
#pragma GCC unroll 4
    for (int v = 0; v < word_vectors; ++v) {
      const Words product0 = product(c0[v], factor0), product2 = product(c2[v], factor2);
      c0[v] = (product2 >> 32) ^ c1[v] ^ splat(key0);
      c1[v] = product2;
      c2[v] = (product0 >> 32) ^ c3[v] ^ splat(key1);
      c3[v] = product0;
    }
    key0 += 0x9e3779b9;
    key1 += 0xbb67ae85;
  }
#pragma GCC unroll 4
  for (int v = 0; v < word_vectors; ++v) {
    const Words low = splat(0xffffffff);
    store_alternating(out + v * 4 * word_lanes, (c0[v] & low) | (c1[v] << 32), (c2[v] & low) | (c3[v] << 32));
  }
}

template <class T>
void drop(T* __restrict values, const std::uint32_t* __restrict words, std::int64_t n, std::int64_t threshold,
          T scale) {
  if (threshold > 0xffffffff) {
    std::memset(values, 0, n * sizeof(T));
    return;
  }
  const std::uint32_t least = static_cast<std::uint32_t>(threshold);
  // A choice and not a product with 0 or 1: a dropped element is 0 even if it is infinite or NaN.
  for (std::int64_t i = 0; i < n; ++i) {
    const T scaled = values[i] * scale;
    values[i] = words[i] >= least ? scaled : T(0);
  }
}

template <class T>
void position_dropout_run(const PositionDropout& args, std::int64_t first, std::int64_t last) {
  const std::int64_t length = args.x.size[1], channels = args.x.size[2];
  alignas(64) T values[dropout_stretch];
  alignas(64) std::uint32_t words[dropout_stretch];
  for (std::int64_t at = first; at < last; ++at) {
    const std::int64_t b = at / length, t = at % length;
    const Row in = row(args.x, b, t), out = row(args.y, b, t);
    const std::uint32_t position = static_cast<std::uint32_t>(args.offset + t);
    const std::uint64_t sample = static_cast<std::uint64_t>(args.samples[b]);
    for (std::int64_t c = 0; c < channels; c += dropout_stretch) {
      const std::int64_t n = channels - c < dropout_stretch ? channels - c : dropout_stretch;
      // The last call may give more words than there are channels.
      for (std::int64_t i = 0; i < n; i += word_block)
        random_words(words + i, (c + i) / 4, position, sample, args.seed);
      read<With::set>(values, in, c, n);
      drop(values, words, n, args.threshold, static_cast<T>(args.scale));
      write(out, c, values, n);
    }
  }
}

void position_dropout_by_dtype(const PositionDropout& args, std::int64_t first, std::int64_t last) {
  args.x.dtype == Dtype::f64 ? position_dropout_run<double>(args, first, last)
                             : position_dropout_run<float>(args, first, last);
}

}  // namespace

const PositionDropoutKernels HYENA_KERNELS(position_dropout) = {position_dropout_by_dtype};

}  // namespace hyena
