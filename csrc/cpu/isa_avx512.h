// To be included first by a file whose kernels are for AVX-512: standard headers, then the target.
//
// Only this file's own functions, all in an anonymous namespace, may be compiled for the target: a template of the
// standard library instantiated here would be a weak symbol that the linker may pick for every processor.
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
