// Aligned memory of each thread for work arrays. Up to a bound, it is kept for later calls.
#pragma once

#include <cstddef>

namespace hyena {

// A kernel that calls another one has its own memory: the mixer calls fftconv.
enum class For : int { rows, mixer };

// `bytes` of memory, aligned to 64 bytes. A thread gets the same memory at every call unless it has to grow. Throws
// std::bad_alloc.
void* scratch(For use, std::size_t bytes);

// A kernel calls this at its end. Memory above the bound is freed.
void trim_scratch(For use);

}  // namespace hyena
