// Marks functions that a GPU runs and that tests can call on a CPU.
#pragma once

#if defined(__CUDACC__)
#define HYENA_HOST_DEVICE __host__ __device__ __forceinline__
#define HYENA_UNROLL _Pragma("unroll")
#define HYENA_NO_UNROLL _Pragma("unroll 1")
#else
#define HYENA_HOST_DEVICE inline
#define HYENA_UNROLL
#define HYENA_NO_UNROLL
#endif

namespace hyena {

// A number as a type, so that the lambda of `unrolled` can use it as a template argument.
template <int V>
struct Index {
  static constexpr int value = V;
};

template <int N, int I = 0, class F>
HYENA_HOST_DEVICE void unrolled(F&& f) {
  if constexpr (I < N) {
    f(Index<I>{});
    unrolled<N, I + 1>(f);
  }
}

}  // namespace hyena
