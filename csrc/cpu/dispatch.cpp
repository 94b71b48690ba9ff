#include "dispatch.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace hyena {
namespace {

constexpr const char* names[] = {"portable", "avx2", "avx512"};

Isa widest() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  // Every processor with AVX2 has F16C. Not every compiler can check for F16C itself.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (avx2 && avx512) return Isa::avx512;
  if (avx2) return Isa::avx2;
#endif
  return Isa::portable;
}

Isa asked_for() {
  const char* name = std::getenv("HYENA_CPU_ISA");
  const Isa most = widest();
  if (name == nullptr || *name == '\0') return most;
  for (int i = 0; i < 3; ++i) {
    if (std::string(name) != names[i]) continue;
    if (i > static_cast<int>(most))
      throw std::runtime_error(std::string("HYENA_CPU_ISA asks for ") + name + ", and this processor has " +
                               names[static_cast<int>(most)] + " at most");
    return static_cast<Isa>(i);
  }
  throw std::runtime_error(std::string("HYENA_CPU_ISA=") + name + " is unknown: choose avx512, avx2 or portable");
}

}  // namespace

Isa isa() {
  static const Isa chosen = asked_for();
  return chosen;
}

const char* isa_name() { return names[static_cast<int>(isa())]; }

}  // namespace hyena
