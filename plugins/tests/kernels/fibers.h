// One block of a CUDA kernel on the CPU: a ucontext fiber per thread, run one at a time.
//
// A fiber runs until it must wait for others (a barrier, a warp operation) or returns. The order in
// which ready fibers run is an option, so a kernel whose result changes with it lacks a barrier.
// What nobody can reach any more is reported as a deadlock. Shared memory is poisoned (0xFF: NaN)
// before every block. The blocks of a cluster run together, each with shared memory of its own. Not
// covered: memory ordering between blocks, speed. An asynchronous copy poisons its target at once and
// brings the bytes when its thread waits for it: as late as a GPU may.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <ucontext.h>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace river::shim
{
constexpr int kLanes = 32;
constexpr size_t kStackBytes = 96 * 1024;
constexpr int kMaxRounds = 100000;
constexpr size_t kMaxSharedBytes = 48 * 1024;
constexpr size_t kMaxDynamicSharedBytes = 227 * 1024; // an H100's
constexpr size_t kSharedAlignment = 128;
constexpr int kDynamicShared = -1; // instead of the number of a declaration

[[noreturn]] inline void die(char const* message)
{
    std::fprintf(stderr, "cuda_cpu_shim: %s\n", message);
    std::fflush(nullptr);
    std::_Exit(86);
}

// 0: rising thread numbers; 1: falling; else the seed of a shuffle.
inline unsigned& thread_order()
{
    static unsigned order = 0;
    return order;
}

// Threads that wait for each other: a block at a barrier, or a warp at one operation.
struct Meeting
{
    int arrived = 0;
    unsigned round = 0;
    int line = 0;
    uint32_t mask = 0;
    uint64_t posted[2][kLanes]; // double: the next round may begin before all have read
    uint32_t posters[2] = {0, 0};
};

struct Copy // to shared memory, not yet waited for
{
    char* to;
    char const* from; // nullptr: zeros
    size_t bytes;
    unsigned group;
};

struct Fiber
{
    ucontext_t context{};
    std::unique_ptr<char[]> stack{new char[kStackBytes]};
    int thread = 0;
    bool done = false;
    Meeting* waits_at = nullptr;
    unsigned waits_in_round = 0;
    bool arrived_in_cluster = false; // and has not waited yet
    unsigned cluster_round = 0;
    bool knows_cluster = false; // has waited: all blocks have started
    void* sanitizer_stack = nullptr;
    std::vector<Copy> copies;
    unsigned copy_groups = 0; // committed
};

// The block that runs, or the cluster of blocks: `thread` and `rank` tell which the running fiber is.
class Block
{
public:
    unsigned grid[3] = {1, 1, 1};
    unsigned index[3] = {0, 0, 0}; // of the cluster's first block
    unsigned size = 0;             // threads of a block
    unsigned cluster = 1;          // blocks that run together, neighbours along x
    size_t dynamic_bytes = 0;      // of shared memory, of each block

    static Block& current()
    {
        static Block block;
        return block;
    }

    int thread() const
    {
        return running_->thread % static_cast<int>(size);
    }
    int rank() const
    {
        return running_->thread / static_cast<int>(size);
    }

    void run(std::function<void()> const& body)
    {
        body_ = &body;
        int const threads = static_cast<int>(size * cluster);
        while (static_cast<int>(fibers_.size()) < threads)
            fibers_.push_back(std::make_unique<Fiber>());
        shared_.clear();
        shared_.resize(cluster);
        alive_ = threads;
        alive_threads_.assign(cluster, static_cast<int>(size));
        barriers_.assign(cluster, Meeting{});
        cluster_barrier_ = Meeting{};
        warps_of_block_ = (static_cast<int>(size) + kLanes - 1) / kLanes;
        warps_.assign(warps_of_block_ * cluster, Meeting{});
        alive_lanes_.assign(warps_.size(), 0);
        std::vector<int> order;
        for (int i = 0; i < threads; ++i)
        {
            order.push_back(i);
            start(*fibers_[i], i);
        }
        if (thread_order() == 1)
            std::reverse(order.begin(), order.end());
        else if (thread_order() > 1)
            std::shuffle(order.begin(), order.end(), std::mt19937(thread_order()));
        while (alive_ > 0)
        {
            bool moved = false;
            for (int i : order)
            {
                Fiber& fiber = *fibers_[i];
                bool const waits =
                    fiber.waits_at != nullptr && fiber.waits_at->round == fiber.waits_in_round;
                if (fiber.done || waits)
                    continue;
                fiber.waits_at = nullptr;
                running_ = &fiber;
                enter(fiber);
                moved = true;
            }
            if (!moved)
                die("deadlock: threads wait at a barrier that the others never reach");
        }
    }

    void meet_block(int line)
    {
        Meeting& barrier = barriers_[rank()];
        if (barrier.arrived == 0)
            barrier.line = line;
        else if (barrier.line != line)
            die("__syncthreads reached at two lines in one round");
        arrive(barrier, alive_threads_[rank()]);
    }

    // The cluster's barrier, in two halves.
    void arrive_in_cluster()
    {
        if (running_->arrived_in_cluster)
            die("the cluster's barrier: two arrivals without a wait");
        running_->arrived_in_cluster = true;
        running_->cluster_round = cluster_barrier_.round;
        ++cluster_barrier_.arrived;
        release(cluster_barrier_, alive_);
    }
    void wait_in_cluster()
    {
        if (!running_->arrived_in_cluster)
            die("the cluster's barrier: a wait without an arrival");
        running_->arrived_in_cluster = false;
        running_->knows_cluster = true;
        if (cluster_barrier_.round != running_->cluster_round)
            return;
        running_->waits_at = &cluster_barrier_;
        running_->waits_in_round = running_->cluster_round;
        leave(*running_, false);
    }

    // For what no barrier tells: the others run until it is so.
    template <typename Condition>
    void wait_until(Condition const& condition)
    {
        for (int rounds = 0; !condition(); ++rounds)
        {
            if (rounds > kMaxRounds)
                die("deadlock: a thread waits for bytes that nobody sends");
            leave(*running_, false);
        }
    }

    // Posts a value, waits for the living lanes of the mask, and tells what all posted. `last` is
    // called in the lane that arrives last, before any goes on.
    struct Posts
    {
        uint64_t const* values;
        uint32_t posters;
    };
    template <typename Last>
    Posts meet_warp(uint32_t mask, uint64_t value, int line, Last const& last)
    {
        int const lane = thread() % kLanes;
        Meeting& warp = warps_[warp_of(*running_)];
        uint32_t const living = mask & alive_lanes_[warp_of(*running_)];
        if ((mask >> lane & 1U) == 0)
            die("a lane that its own mask leaves out");
        int const buffer = warp.round & 1U;
        if (warp.arrived == 0)
        {
            warp.line = line;
            warp.mask = mask;
            warp.posters[buffer] = 0;
        }
        else if (warp.mask != mask || warp.line != line)
            die("lanes of one warp at two warp operations, or with two masks");
        warp.posted[buffer][lane] = value;
        warp.posters[buffer] |= 1U << lane;
        int const needed = __builtin_popcount(living);
        Posts const posts{warp.posted[buffer], 0};
        if (warp.arrived + 1 >= needed)
            last(Posts{warp.posted[buffer], warp.posters[buffer]});
        arrive(warp, needed);
        return Posts{posts.values, warp.posters[buffer]};
    }

    // The block's array of one declaration, poisoned when the first thread comes to it.
    template <typename T>
    T& shared(int declaration)
    {
        return *reinterpret_cast<T*>(shared(rank(), declaration, sizeof(T)).memory.get());
    }

    char* dynamic_shared()
    {
        if (dynamic_bytes == 0)
            die("dynamic shared memory that the launch did not ask for");
        return shared(rank(), kDynamicShared, dynamic_bytes).memory.get();
    }

    void copy(char* to, char const* from, size_t bytes)
    {
        if (reinterpret_cast<uintptr_t>(to) % bytes != 0
            || reinterpret_cast<uintptr_t>(from) % bytes != 0)
            die("misaligned copy");
        std::memset(to, 0xFF, bytes);
        running_->copies.push_back({to, from, bytes, running_->copy_groups});
    }
    void commit_copies()
    {
        ++running_->copy_groups;
    }
    // All but the last `pending` groups of this thread are there.
    void wait_copies(unsigned pending)
    {
        auto& copies = running_->copies;
        size_t done = 0;
        for (; done < copies.size(); ++done)
        {
            Copy const& copy = copies[done];
            if (copy.group + pending >= running_->copy_groups)
                break;
            if (copy.from == nullptr)
                std::memset(copy.to, 0, copy.bytes);
            else
                std::memcpy(copy.to, copy.from, copy.bytes);
        }
        copies.erase(copies.begin(), copies.begin() + static_cast<std::ptrdiff_t>(done));
    }

    // Where another block of the cluster has what lies at `mine` in this block's shared memory.
    char* shared_of(int rank, char* mine)
    {
        if (!running_->knows_cluster)
            die("shared memory of another block, which may not have started");
        if (alive_threads_[rank] == 0)
            die("shared memory of a block that has ended");
        for (auto const& [declaration, own] : shared_[this->rank()])
            if (mine >= own.memory.get() && mine < own.memory.get() + own.bytes)
                return shared(rank, declaration, own.bytes).memory.get()
                    + (mine - own.memory.get());
        die("no shared memory of this block");
    }

private:
    struct Aligned
    {
        void operator()(char* p) const
        {
            ::operator delete[](p, std::align_val_t{kSharedAlignment});
        }
    };

    struct Shared
    {
        std::unique_ptr<char[], Aligned> memory;
        size_t bytes = 0;
    };

    Shared& shared(int rank, int declaration, size_t bytes)
    {
        Shared& found = shared_[rank][declaration];
        if (found.memory == nullptr)
        {
            found.memory.reset(new (std::align_val_t{kSharedAlignment}) char[bytes]);
            found.bytes = bytes;
            std::memset(found.memory.get(), 0xFF, bytes);
            size_t total = 0;
            for (auto const& [number, one] : shared_[rank])
                total += number == kDynamicShared ? 0 : one.bytes;
            if (total > kMaxSharedBytes)
                die("more than 48 KiB of static shared memory");
        }
        return found;
    }

    int warp_of(Fiber const& fiber) const
    {
        int const threads = static_cast<int>(size);
        return fiber.thread / threads * warps_of_block_ + fiber.thread % threads / kLanes;
    }

    void start(Fiber& fiber, int thread)
    {
        fiber.thread = thread;
        alive_lanes_[warp_of(fiber)] |= 1U << (thread % static_cast<int>(size) % kLanes);
        fiber.done = false;
        fiber.waits_at = nullptr;
        fiber.arrived_in_cluster = false;
        fiber.knows_cluster = false;
        fiber.copies.clear();
        fiber.copy_groups = 0;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = kStackBytes;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, &Block::entry, 0);
    }

    void arrive(Meeting& meeting, int needed)
    {
        if (++meeting.arrived >= needed)
        {
            meeting.arrived = 0;
            ++meeting.round;
            return;
        }
        running_->waits_at = &meeting;
        running_->waits_in_round = meeting.round;
        leave(*running_, false);
    }

    void finish(Fiber& fiber)
    {
        if (!fiber.copies.empty())
            die("a thread ends before its copies");
        fiber.done = true;
        --alive_;
        size_t const warp = warp_of(fiber);
        alive_lanes_[warp] &= ~(1U << (thread() % kLanes));
        release(barriers_[rank()], --alive_threads_[rank()]);
        release(cluster_barrier_, alive_);
        release(warps_[warp], __builtin_popcount(warps_[warp].mask & alive_lanes_[warp]));
        leave(fiber, true);
    }

    // A return can be what the others wait for.
    static void release(Meeting& meeting, int needed)
    {
        if (meeting.arrived > 0 && meeting.arrived >= needed)
        {
            meeting.arrived = 0;
            ++meeting.round;
        }
    }

    void enter(Fiber& fiber)
    {
#if defined(__SANITIZE_ADDRESS__)
        void* save = nullptr;
        __sanitizer_start_switch_fiber(&save, fiber.stack.get(), kStackBytes);
        swapcontext(&scheduler_, &fiber.context);
        __sanitizer_finish_switch_fiber(save, nullptr, nullptr);
#else
        swapcontext(&scheduler_, &fiber.context);
#endif
    }

    void leave(Fiber& fiber, bool for_good)
    {
#if defined(__SANITIZE_ADDRESS__)
        __sanitizer_start_switch_fiber(
            for_good ? nullptr : &fiber.sanitizer_stack, scheduler_stack_, scheduler_stack_bytes_);
        swapcontext(&fiber.context, &scheduler_);
        __sanitizer_finish_switch_fiber(
            fiber.sanitizer_stack, &scheduler_stack_, &scheduler_stack_bytes_);
#else
        (void)for_good;
        swapcontext(&fiber.context, &scheduler_);
#endif
    }

    static void entry()
    {
        Block& block = current();
#if defined(__SANITIZE_ADDRESS__)
        __sanitizer_finish_switch_fiber(
            nullptr, &block.scheduler_stack_, &block.scheduler_stack_bytes_);
#endif
        (*block.body_)();
        block.finish(*block.running_);
    }

    std::vector<std::unique_ptr<Fiber>> fibers_;
    std::function<void()> const* body_ = nullptr;
    Fiber* running_ = nullptr;
    ucontext_t scheduler_{};
    void const* scheduler_stack_ = nullptr;
    size_t scheduler_stack_bytes_ = 0;
    int alive_ = 0;
    std::vector<int> alive_threads_; // of each block
    std::vector<Meeting> barriers_;  // of each block
    Meeting cluster_barrier_;
    int warps_of_block_ = 0;
    std::vector<Meeting> warps_; // of all blocks, one after the other
    std::vector<uint32_t> alive_lanes_;
    std::vector<std::map<int, Shared>> shared_; // of each block
};
} // namespace river::shim
