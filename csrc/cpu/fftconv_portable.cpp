#include "isa_portable.h"

#include "fftconv.inl"
