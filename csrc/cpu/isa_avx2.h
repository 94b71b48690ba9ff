// A file with kernels for AVX2 and FMA includes this first. See isa_avx512.h.
#pragma once

#include "isa_headers.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif

#define HYENA_KERNELS(op) op##_avx2
#define HYENA_VECTOR_BYTES 32
#define HYENA_F16C 1
