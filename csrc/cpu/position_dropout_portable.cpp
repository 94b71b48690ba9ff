#include "isa_portable.h"

#include "position_dropout.inl"
