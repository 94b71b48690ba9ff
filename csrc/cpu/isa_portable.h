// To be included first by a file whose kernels are for any processor: 16-byte vectors, as SSE2 and NEON have.
#pragma once

#include "isa_headers.h"

#define HYENA_KERNELS(op) op##_portable
#define HYENA_VECTOR_BYTES 16
#define HYENA_F16C 0
