// Chooses the instruction set of the kernels: the widest that the processor has, or the one that HYENA_CPU_ISA names.
#pragma once

namespace hyena {

enum class Isa : int { portable, avx2, avx512 };

// Throws std::runtime_error if HYENA_CPU_ISA is not an instruction set, or one that this processor lacks.
Isa isa();

const char* isa_name();

template <class Kernels>
const Kernels& choose([[maybe_unused]] const Kernels& avx512, [[maybe_unused]] const Kernels& avx2,
                      const Kernels& portable) {
#if defined(__x86_64__)
  if (isa() == Isa::avx512) return avx512;
  if (isa() == Isa::avx2) return avx2;
#endif
  return portable;
}

}  // namespace hyena
