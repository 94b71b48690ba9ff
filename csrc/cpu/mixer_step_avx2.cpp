#if defined(__x86_64__)
#include "isa_avx2.h"

#include "mixer_step.inl"

#include "isa_end.h"
#endif
