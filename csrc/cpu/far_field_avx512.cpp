#if defined(__x86_64__)
#include "isa_avx512.h"

#include "far_field.inl"

#include "isa_end.h"
#endif
