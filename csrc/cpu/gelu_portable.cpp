#include "isa_portable.h"

#include "gelu.inl"
