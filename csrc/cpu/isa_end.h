// To be included last by a file that included isa_avx512.h or isa_avx2.h first.
#if defined(__clang__)
#pragma clang attribute pop
#endif
