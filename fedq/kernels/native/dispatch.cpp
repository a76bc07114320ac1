// The flat C interface: `fedq_NAME` runs the kernel for the best instruction set of this machine, or for a forced one.
#include <string.h>

#include "table.hpp"

using namespace fedq;

namespace {

constexpr const char* NAMES[] = {"portable", "avx2", "avx512"};

bool supported(int isa) {
#if defined(__x86_64__)
  if (isa == 1) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("fma");
  if (isa == 2)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512vbmi") &&
           __builtin_cpu_supports("gfni") && __builtin_cpu_supports("bmi2");
#endif
  return isa == 0;
}

const Kernels* table(int isa) {
#if defined(__x86_64__)
  if (isa == 2) return &avx512;
  if (isa == 1) return &avx2;
#endif
  (void)isa;
  return &portable;
}

int best() { return supported(2) ? 2 : supported(1) ? 1 : 0; }

int chosen = best();
const Kernels* active = table(chosen);

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

// The name of the instruction set in use.
EXPORT const char* fedq_isa() { return NAMES[chosen]; }

// Use `name` ("auto" is the best one); 0, or -1 where this machine lacks it. Not while kernels run.
EXPORT int fedq_force(const char* name) {
  int isa = strcmp(name, "auto") == 0 ? best() : -1;
  for (int i = 0; i < 3; ++i)
    if (strcmp(name, NAMES[i]) == 0) isa = i;
  if (isa < 0 || !supported(isa)) return -1;
  chosen = isa;
  active = table(isa);
  return 0;
}

#define KERNEL(result, name, parameters, arguments) \
  EXPORT result fedq_##name parameters { return active->name arguments; }
#include "kernels.def"
