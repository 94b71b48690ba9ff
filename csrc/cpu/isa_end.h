// A file that includes isa_avx512.h or isa_avx2.h first includes this last.
#if defined(__clang__)
#pragma clang attribute pop
#endif
