// The operators' own threads, as many as torch has (torch.set_num_threads holds for them too).
//
// OpenMP's are not used: a parallel region there waits for every thread to start, and where other
// programs hold the cores that is a time slice of the system's for each of hundreds of regions.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>

#include "parallel.h"

namespace river::torch_cpu
{

// Runs on the calling thread and on those that wake up in time; one caller at a time has the
// threads, another one meanwhile works alone.
Pool pool();

// work(first, end) over pieces of 0 .. items - 1, each of at most `grain`.
template <typename Work>
void parallel_for(size_t items, size_t grain, Work&& work);

// ---- implementation

template <typename Work>
void parallel_for(size_t items, size_t grain, Work&& work)
{
    size_t const pieces = (items + grain - 1) / grain;
    Pool const threads = pool();
    if (pieces <= 1 || threads.threads <= 1)
    {
        if (items != 0)
            work(size_t{0}, items);
        return;
    }
    struct Call
    {
        Work& work;
        size_t items, grain, pieces;
        std::atomic<size_t> next{0};
    } call{work, items, grain, pieces};
    auto const share = [](void* argument, size_t)
    {
        Call& call = *static_cast<Call*>(argument);
        for (size_t piece;
            (piece = call.next.fetch_add(1, std::memory_order_relaxed)) < call.pieces;)
        {
            size_t const first = piece * call.grain;
            call.work(first, std::min(call.items, first + call.grain));
        }
    };
    threads.run(threads.pool, share, std::min(pieces, threads.threads), &call);
}

} // namespace river::torch_cpu
