// A file with kernels for AVX-512 includes this first: standard headers, then the target.
//
// Only functions in an anonymous namespace may be compiled for the target. A template of the standard library would
// become a weak symbol here, and the linker might choose this version of it for every processor.
#pragma once

#include "isa_headers.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")
#endif

#define HYENA_KERNELS(op) op##_avx512
#define HYENA_VECTOR_BYTES 64
#define HYENA_F16C 1
