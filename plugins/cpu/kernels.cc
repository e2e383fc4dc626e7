#include "kernels.h"

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

namespace river
{
namespace
{

struct Named
{
    char const* name;
    Kernels const* table;
};

// What this processor runs, the best first.
std::vector<Named> usable()
{
    std::vector<Named> found;
#if defined(__x86_64__)
    bool const avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")
        && __builtin_cpu_supports("f16c");
    bool const avx512 = avx2 && __builtin_cpu_supports("avx512f")
        && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")
        && __builtin_cpu_supports("avx512vnni");
    if (avx512 && has_amx())
        found.push_back({"amx", &amx_kernels()});
    if (avx512)
        found.push_back({"avx512", &kAvx512});
    if (avx2)
        found.push_back({"avx2", &kAvx2});
#endif
    found.push_back({"portable", &kPortable});
    return found;
}

Kernels const& chosen()
{
    std::vector<Named> const tables = usable();
    char const* const asked = std::getenv("RIVER_TRT_CPU_KERNELS");
    if (asked == nullptr)
        return *tables.front().table;
    std::string names;
    for (Named const& named : tables)
    {
        if (std::string(asked) == named.name)
            return *named.table;
        names += (names.empty() ? "" : ", ") + std::string(named.name);
    }
    throw std::invalid_argument("RIVER_TRT_CPU_KERNELS is '" + std::string(asked)
        + "', and this processor has kernels for " + names);
}

} // namespace

Kernels const& kernels()
{
    static Kernels const& table = chosen();
    return table;
}

} // namespace river
