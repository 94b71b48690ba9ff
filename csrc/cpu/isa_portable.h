// A file with kernels for any processor includes this first: 16-byte vectors, as in SSE2 and NEON.
#pragma once

#include "isa_headers.h"

#define HYENA_KERNELS(op) op##_portable
#define HYENA_VECTOR_BYTES 16
#define HYENA_F16C 0
