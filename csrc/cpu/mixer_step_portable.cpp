#include "isa_portable.h"

#include "mixer_step.inl"
