#include "isa_portable.h"

#include "taps.inl"
