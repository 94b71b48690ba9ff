// Memory of a thread for its work arrays: aligned, kept from call to call up to a bound.
#pragma once

#include <cstddef>

namespace hyena {

// Kernels that call others have memory of their own.
enum class For : int { rows, mixer };

// `bytes` of memory aligned to 64 bytes, the same at every call of a thread unless it has to grow. Throws
// std::bad_alloc.
void* scratch(For use, std::size_t bytes);

// Called when a kernel is done with it: gives back what is above the bound.
void trim_scratch(For use);

}  // namespace hyena
