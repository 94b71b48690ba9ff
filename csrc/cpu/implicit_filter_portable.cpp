#include "isa_portable.h"

#include "implicit_filter.inl"
