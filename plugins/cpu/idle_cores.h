// How many of the machine's cores have nothing to do.
#pragma once

#include <cstdio>

#if defined(__linux__)
#include <unistd.h>
#endif

namespace river
{

// Time that the machine's cores have had, and that they had nothing to do for; in one unit.
struct CoreTime
{
    double idle = 0, total = 0;
    double cores = 0; // 0: not known

    // Since the machine began.
    static CoreTime now()
    {
        CoreTime time;
#if defined(__linux__)
        std::FILE* const file = std::fopen("/proc/stat", "r");
        if (file == nullptr)
            return time;
        // user, nice, system, idle, iowait, irq, softirq, steal
        unsigned long long part[8] = {};
        if (std::fscanf(file, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &part[0], &part[1],
                &part[2], &part[3], &part[4], &part[5], &part[6], &part[7])
            == 8)
        {
            for (unsigned long long const one : part)
                time.total += static_cast<double>(one);
            time.idle = static_cast<double>(part[3] + part[4]);
            time.cores = static_cast<double>(sysconf(_SC_NPROCESSORS_ONLN));
        }
        std::fclose(file);
#endif
        return time;
    }

    // Cores without work from `before` until this; all where it is not known.
    double idle_cores(CoreTime const& before) const
    {
        double const passed = total - before.total;
        return cores > 0 && passed > 0 ? (idle - before.idle) / passed * cores : 1e9;
    }
};

} // namespace river
