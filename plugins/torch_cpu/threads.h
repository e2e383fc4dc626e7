// Threads that help whoever calls, and that nobody waits for.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace river::torch_cpu
{

// A job is open while its shares may be taken. A thread enters an open job, and a closed one is
// replaced when the last thread has left it.
class Threads
{
public:
    // Runs work(argument, i) for every i below count, on this thread and at most wanted - 1 others;
    // alone where another caller has the threads.
    void run(void (*work)(void*, size_t), size_t count, void* argument, size_t wanted)
    {
        std::unique_lock<std::mutex> const alone(busy_, std::try_to_lock);
        if (!alone.owns_lock())
        {
            for (size_t i = 0; i < count; ++i)
                work(argument, i);
            return;
        }
        while (started_ + 1 < wanted)
        {
            // Detached: they live as long as the process, which libraries of Python's are not unloaded from.
            std::thread([this] { serve(); }).detach();
            ++started_;
        }
        work_ = work;
        argument_ = argument;
        count_ = count;
        next_.store(0, std::memory_order_relaxed);
        state_.store(kOpen, std::memory_order_release);
        jobs_.fetch_add(1, std::memory_order_seq_cst);
        if (asleep_.load(std::memory_order_seq_cst) != 0)
            jobs_.notify_all();
        take_shares();
        state_.fetch_and(~kOpen, std::memory_order_acq_rel);
        for (size_t spins = 0; state_.load(std::memory_order_acquire) != 0; ++spins)
            pause(spins);
    }

private:
    static constexpr uint32_t kOpen = 1, kInside = 2;
    static constexpr size_t kSpins = 4000, kYieldAfter = 20000;

    void take_shares()
    {
        for (size_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count_;)
        {
            work_(argument_, i);
        }
    }

    [[noreturn]] void serve()
    {
        uint32_t seen = 0;
        for (;;)
        {
            for (size_t spins = 0; jobs_.load(std::memory_order_acquire) == seen; ++spins)
            {
                if (spins < kSpins)
                {
                    pause(0);
                    continue;
                }
                asleep_.fetch_add(1, std::memory_order_seq_cst);
                jobs_.wait(seen, std::memory_order_seq_cst);
                asleep_.fetch_sub(1, std::memory_order_seq_cst);
            }
            seen = jobs_.load(std::memory_order_acquire);
            uint32_t state = state_.load(std::memory_order_acquire);
            while ((state & kOpen) != 0)
            {
                if (state_.compare_exchange_weak(state, state + kInside, std::memory_order_acq_rel))
                {
                    take_shares();
                    state_.fetch_sub(kInside, std::memory_order_acq_rel);
                    break;
                }
            }
        }
    }

    static void pause(size_t spins)
    {
        if (spins > kYieldAfter)
        {
            std::this_thread::yield();
            return;
        }
#if defined(__x86_64__)
        _mm_pause();
#endif
    }

    std::mutex busy_;
    size_t started_ = 0;
    void (*work_)(void*, size_t) = nullptr;
    void* argument_ = nullptr;
    size_t count_ = 0;
    alignas(64) std::atomic<size_t> next_{0};
    alignas(64) std::atomic<uint32_t> state_{0};
    alignas(64) std::atomic<uint32_t> jobs_{0};
    std::atomic<uint32_t> asleep_{0};
};

} // namespace river::torch_cpu
