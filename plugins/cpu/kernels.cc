#include "kernels.h"

namespace river
{

Kernels const& kernels()
{
#if defined(__x86_64__)
    static bool const avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")
        && __builtin_cpu_supports("f16c");
    static bool const avx512 = avx2 && __builtin_cpu_supports("avx512f")
        && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")
        && __builtin_cpu_supports("avx512vnni");
    static bool const amx = avx512 && has_amx();
    if (amx)
        return amx_kernels();
    if (avx512)
        return kAvx512;
    if (avx2)
        return kAvx2;
#endif
    return kPortable;
}

} // namespace river
