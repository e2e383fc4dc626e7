#include "kernels.h"

namespace river {

const Kernels& kernels() {
#if defined(__x86_64__)
  static const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2) return kAvx2;
#endif
  return kPortable;
}

}  // namespace river
