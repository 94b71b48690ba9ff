#include "isa_portable.h"

#include "far_field.inl"
