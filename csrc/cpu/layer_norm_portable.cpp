#include "isa_portable.h"

#include "layer_norm.inl"
