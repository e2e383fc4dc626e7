// Work in phases, shared between the threads of somebody else's pool.
//
// A phase is a number of chunks, and starts when those of the phase before are all done. Each share
// of the work owns a range of a phase's chunks, so that a thread reads memory in order, and takes
// from other ranges when its own is empty. One call into the pool covers all phases. Whoever is
// there does the work: no thread waits for one that has not started.
#pragma once

#include <algorithm>
#include <atomic>
#include <cassert>
#include <cstddef>
#include <thread>

#include "shares.h"
#include "trace.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace river
{

// Runs work(argument, i) for every i below count, on any threads, and returns when all are done.
struct Pool
{
    void (*run)(void* pool, void (*work)(void*, size_t), size_t count, void* argument);
    void* pool;
    size_t threads;
};

class PhasedWork
{
public:
    static constexpr size_t kMaxPhases = 12;
    static constexpr size_t kMaxShares = 16;

    virtual ~PhasedWork() = default;
    virtual void chunk(size_t phase, size_t index) noexcept = 0;

    // What a trace says of a phase: its name, its layer (0: none), what a chunk that has run read.
    virtual char const* name(size_t phase) const = 0;
    virtual int32_t layer(size_t phase) const = 0;
    virtual size_t bytes(size_t phase, size_t index) const = 0;

    void add_phase(size_t chunks)
    {
        assert(count_ < kMaxPhases);
        phases_[count_++].chunks = chunks;
    }

    // short_work: some hundred microseconds, as of a decode step; the others end sooner shared.
    void run(Pool const& pool, bool short_work)
    {
        size_t const most = std::min(pool.threads, kMaxShares);
        if (most <= 1 || !short_work)
        {
            run_shares(pool, most);
            return;
        }
        static ShareControl control; // of all sessions: they are on one machine
        ShareControl::Way const way = control.way();
        int64_t const start = Trace::now();
        run_shares(pool, way == ShareControl::kAlone ? 1 : most);
        int64_t const end = Trace::now();
        // A thread may hold up the caller, too, when all work is done.
        int64_t const tail = way == ShareControl::kShared ? end - first_end_ : 0;
        int64_t const waited = waited_ + (tail > kLongWait ? tail : 0);
        size_t work = 0;
        for (size_t p = 0; p < count_; ++p)
            work += phases_[p].chunks;
        control.observe(way, static_cast<double>(work), 1e-9 * static_cast<double>(end - start),
            1e-9 * static_cast<double>(waited));
    }

private:
    static constexpr int64_t kLongWait = 100'000; // ns; a chunk takes a tenth of that
    static constexpr size_t kLongSpins = 256;     // from then on a wait is timed

    struct alignas(64) Range
    {
        std::atomic<size_t> next{0};
    };
    struct Phase
    {
        size_t chunks = 0;
        Range ranges[kMaxShares];
        alignas(64) std::atomic<size_t> done{0};
    };

    void run_shares(Pool const& pool, size_t shares)
    {
        shares_ = std::max<size_t>(1, shares);
        for (size_t p = 0; p < count_; ++p)
        {
            for (size_t s = 0; s < shares_; ++s)
            {
                phases_[p].ranges[s].next = s * phases_[p].chunks / shares_;
            }
        }
        auto const work = [](void* self, size_t share)
        {
            static_cast<PhasedWork*>(self)->take_part(share);
        };
        if (shares_ > 1)
        {
            pool.run(pool.pool, work, shares_, this);
        }
        else
        {
            take_part(0);
        }
    }

    void take_part(size_t share) noexcept
    {
        for (size_t p = 0; p < count_; ++p)
        {
            Phase& phase = phases_[p];
            if (phase.done.load(std::memory_order_acquire) == phase.chunks)
                continue;
            bool const traced = g_trace.on();
            TraceEvent event = {};
            if (traced)
                event.start = Trace::now();
            size_t ran = 0;
            for (size_t i = 0; i < shares_; ++i)
                ran += run_range(p, (share + i) % shares_, traced ? &event : nullptr);
            if (traced)
                event.worked = Trace::now();
            if (ran != 0)
                phase.done.fetch_add(ran, std::memory_order_acq_rel);
            int64_t since = 0;
            for (size_t spins = 0; phase.done.load(std::memory_order_acquire) < phase.chunks;
                ++spins)
            {
                if (spins == kLongSpins)
                    since = Trace::now();
                pause(spins);
            }
            if (since != 0)
            {
                int64_t const waited = Trace::now() - since;
                if (waited > kLongWait)
                    waited_.fetch_add(waited, std::memory_order_relaxed);
            }
            if (traced)
            {
                event.name = name(p);
                event.layer = layer(p);
                event.chunks = static_cast<int32_t>(ran);
                event.ended = Trace::now();
                g_trace.add(event);
            }
        }
        int64_t none = 0;
        first_end_.compare_exchange_strong(none, Trace::now(), std::memory_order_relaxed);
    }

    size_t run_range(size_t p, size_t share, TraceEvent* event) noexcept
    {
        Phase& phase = phases_[p];
        std::atomic<size_t>& next = phase.ranges[share].next;
        size_t const end = (share + 1) * phase.chunks / shares_;
        size_t ran = 0;
        while (next.load(std::memory_order_relaxed) < end)
        {
            size_t const index = next.fetch_add(1, std::memory_order_relaxed);
            if (index >= end)
                break;
            chunk(p, index);
            if (event != nullptr)
                event->bytes += static_cast<int64_t>(bytes(p, index));
            ++ran;
        }
        return ran;
    }

    // The chunk waited for is being run; but its thread may have lost its core.
    static void pause(size_t spins) noexcept
    {
        constexpr size_t kSpins = 20000;
        if (spins > kSpins)
        {
            std::this_thread::yield();
            return;
        }
#if defined(__x86_64__)
        _mm_pause();
#endif
    }

    Phase phases_[kMaxPhases];
    size_t count_ = 0, shares_ = 1;
    std::atomic<int64_t> waited_{0}, first_end_{0}; // ns; of long waits, of the first share's end
};

} // namespace river
