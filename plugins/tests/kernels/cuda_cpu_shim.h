// CUDA's names for kernels that a plain C++ compiler takes, over the fibers of fibers.h.
// Flags: -std=c++17 -fno-strict-aliasing -DRIVER_CPU_SHIM -isystem <cuda>/include.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cmath>
#include <type_traits>

#include "fibers.h"

#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __forceinline__
#define __forceinline__ inline
#undef __grid_constant__
#define __grid_constant__
#undef __shared__ // a bare __shared__ does not compile here: use RIVER_SHARED
#define RIVER_SHARED(name, ...)                                                                    \
    auto& name = ::river::shim::Block::current().shared<__VA_ARGS__>(__COUNTER__)
#define RIVER_DYNAMIC_SHARED(name)                                                                 \
    char* const name = ::river::shim::Block::current().dynamic_shared()

namespace river::shim
{
template <typename T>
T load(void const* p)
{
    if (reinterpret_cast<uintptr_t>(p) % alignof(T) != 0)
        die("misaligned load");
    T value;
    std::memcpy(&value, p, sizeof(T));
    return value;
}

template <typename T>
void store(void* p, T value)
{
    if (reinterpret_cast<uintptr_t>(p) % alignof(T) != 0)
        die("misaligned store");
    std::memcpy(p, &value, sizeof(T));
}

// Blocks for which this is false are not run: tests of large shapes take a slice of the grid.
inline std::function<bool(unsigned x)>& block_filter()
{
    static std::function<bool(unsigned)> filter;
    return filter;
}

// Of the card that a launcher sees.
inline int& multiprocessors()
{
    static int count = 3;
    return count;
}

inline void copy_async(void* to, void const* from, int bytes)
{
    Block::current().copy(
        static_cast<char*>(to), static_cast<char const*>(from), static_cast<size_t>(bytes));
}
inline void commit_copies()
{
    Block::current().commit_copies();
}
inline void wait_copies(unsigned pending)
{
    Block::current().wait_copies(pending);
}

// With `cluster` blocks along x running together.
template <typename Args>
void run(void (*kernel)(Args), dim3 grid, int threads, Args args, unsigned cluster = 1,
    size_t shared_bytes = 0)
{
    if (shared_bytes > kMaxDynamicSharedBytes)
        die("more dynamic shared memory than a block can have");
    if (cluster < 1 || cluster > 16 || grid.x % cluster != 0)
        die("cluster of blocks");
    if (threads < 1 || threads > 1024 || grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.y > 65535
        || grid.z > 65535)
        die("launch configuration");
    Block& block = Block::current();
    block.size = static_cast<unsigned>(threads);
    block.cluster = cluster;
    block.dynamic_bytes = shared_bytes;
    block.grid[0] = grid.x;
    block.grid[1] = grid.y;
    block.grid[2] = grid.z;
    for (unsigned z = 0; z < grid.z; ++z)
        for (unsigned y = 0; y < grid.y; ++y)
            for (unsigned x = 0; x < grid.x; x += cluster)
            {
                block.index[0] = x;
                block.index[1] = y;
                block.index[2] = z;
                if (block_filter() && !block_filter()(x))
                    continue;
                block.run([&] { kernel(args); });
            }
}

inline auto const nothing = [](Block::Posts) {};

template <typename T>
T shuffle(uint32_t mask, T value, int source, int line)
{
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>, "a shuffle of this type");
    uint64_t word = 0;
    std::memcpy(&word, &value, sizeof(T));
    auto const posts = Block::current().meet_warp(mask, word, line, nothing);
    word = (posts.posters >> source & 1U) != 0 ? posts.values[source] : ~0ULL; // else poison
    std::memcpy(&value, &word, sizeof(T));
    return value;
}

// The tensor core step of mma.cuh: the lane that comes last computes for all 32.
template <typename Unpack>
void mma_16x8x16(float (&c)[4], uint32_t const (&a)[4], uint32_t b0, uint32_t b1, Unpack unpack,
    int line = __builtin_LINE())
{
    struct Fragments
    {
        float* c;
        uint32_t const* a;
        uint32_t b[2];
    };
    Fragments const mine{c, a, {b0, b1}};
    auto const compute = [&](Block::Posts posts)
    {
        if (posts.posters != 0xffffffffU)
            die("mma by a part of a warp");
        static float left[16][16];
        static float right[16][8];
        for (int lane = 0; lane < kLanes; ++lane)
        {
            auto const* f = reinterpret_cast<Fragments const*>(posts.values[lane]);
            int const g = lane / 4;
            int const t = lane % 4;
            for (int i = 0; i < 4; ++i)
            {
                float2 const pair = unpack(f->a[i]);
                left[g + 8 * (i % 2)][2 * t + 8 * (i / 2)] = pair.x;
                left[g + 8 * (i % 2)][2 * t + 8 * (i / 2) + 1] = pair.y;
            }
            for (int i = 0; i < 2; ++i)
            {
                float2 const pair = unpack(f->b[i]);
                right[2 * t + 8 * i][g] = pair.x;
                right[2 * t + 8 * i + 1][g] = pair.y;
            }
        }
        for (int lane = 0; lane < kLanes; ++lane)
        {
            auto const* f = reinterpret_cast<Fragments const*>(posts.values[lane]);
            for (int i = 0; i < 4; ++i)
            {
                float sum = f->c[i];
                for (int k = 0; k < 16; ++k)
                    sum += left[lane / 4 + 8 * (i / 2)][k] * right[k][2 * (lane % 4) + i % 2];
                f->c[i] = sum;
            }
        }
    };
    Block::current().meet_warp(0xffffffffU, reinterpret_cast<uintptr_t>(&mine), line, compute);
}

inline void mma_16x8x32_u8_s8(
    int32_t (&c)[4], uint32_t const (&a)[4], uint32_t b0, uint32_t b1, int line = __builtin_LINE())
{
    struct Fragments
    {
        int32_t* c;
        uint32_t const* a;
        uint32_t b[2];
    };
    Fragments const mine{c, a, {b0, b1}};
    auto const compute = [&](Block::Posts posts)
    {
        if (posts.posters != 0xffffffffU)
            die("mma by a part of a warp");
        static int left[16][32];
        static int right[32][8];
        for (int lane = 0; lane < kLanes; ++lane)
        {
            auto const* f = reinterpret_cast<Fragments const*>(posts.values[lane]);
            int const g = lane / 4;
            int const t = lane % 4;
            for (int byte = 0; byte < 4; ++byte)
            {
                for (int i = 0; i < 4; ++i)
                    left[g + 8 * (i % 2)][4 * t + byte + 16 * (i / 2)] =
                        static_cast<uint8_t>(f->a[i] >> (8 * byte));
                for (int i = 0; i < 2; ++i)
                    right[4 * t + byte + 16 * i][g] = static_cast<int8_t>(f->b[i] >> (8 * byte));
            }
        }
        for (int lane = 0; lane < kLanes; ++lane)
        {
            auto const* f = reinterpret_cast<Fragments const*>(posts.values[lane]);
            for (int i = 0; i < 4; ++i)
                for (int k = 0; k < 32; ++k)
                    f->c[i] += left[lane / 4 + 8 * (i / 2)][k] * right[k][2 * (lane % 4) + i % 2];
        }
    };
    Block::current().meet_warp(0xffffffffU, reinterpret_cast<uintptr_t>(&mine), line, compute);
}
} // namespace river::shim

namespace river::shim
{
inline uint3 thread_index()
{
    return {static_cast<unsigned>(Block::current().thread()), 0, 0};
}
inline uint3 block_index()
{
    Block const& block = Block::current();
    return {block.index[0] + static_cast<unsigned>(block.rank()), block.index[1], block.index[2]};
}
inline uint3 grid_size()
{
    Block const& block = Block::current();
    return {block.grid[0], block.grid[1], block.grid[2]};
}
} // namespace river::shim
#define threadIdx (::river::shim::thread_index())
#define blockIdx (::river::shim::block_index())
#define gridDim (::river::shim::grid_size())
#define blockDim (uint3{::river::shim::Block::current().size, 1, 1})

inline void __syncthreads(int line = __builtin_LINE())
{
    river::shim::Block::current().meet_block(line);
}
inline void __threadfence()
{
}
template <typename T>
T __shfl_xor_sync(uint32_t mask, T value, int offset, int line = __builtin_LINE())
{
    int const lane = river::shim::Block::current().thread() % river::shim::kLanes;
    return river::shim::shuffle(mask, value, lane ^ offset, line);
}
template <typename T>
T __shfl_sync(uint32_t mask, T value, int source, int line = __builtin_LINE())
{
    return river::shim::shuffle(mask, value, source, line);
}
inline uint32_t __ballot_sync(uint32_t mask, int predicate, int line = __builtin_LINE())
{
    auto const posts = river::shim::Block::current().meet_warp(
        mask, predicate != 0 ? 1 : 0, line, river::shim::nothing);
    uint32_t result = 0;
    for (int lane = 0; lane < river::shim::kLanes; ++lane)
        if ((posts.posters >> lane & 1U) != 0 && posts.values[lane] != 0)
            result |= 1U << lane;
    return result;
}
inline int __dp4a(int a, int b, int sum)
{
    for (int shift = 0; shift < 32; shift += 8)
        sum += static_cast<int8_t>(a >> shift) * static_cast<int8_t>(b >> shift);
    return sum;
}
inline uint32_t __byte_perm(uint32_t low, uint32_t high, uint32_t selector)
{
    uint64_t const both = static_cast<uint64_t>(high) << 32 | low;
    uint32_t result = 0;
    for (int i = 0; i < 4; ++i)
        result |= static_cast<uint32_t>(both >> (8 * (selector >> (4 * i) & 7U)) & 0xffU)
            << (8 * i);
    return result;
}
template <typename T>
T atomicAdd(T* p, T value)
{
    T const old = *p;
    *p = old + value;
    return old;
}
inline int __float2int_rn(float x)
{
    return static_cast<int>(std::nearbyint(x));
}
inline float rsqrtf(float x)
{
    return 1.F / std::sqrt(x);
}
inline float __expf(float x)
{
    return std::exp(x);
}
template <typename T>
constexpr T min(T a, T b)
{
    return b < a ? b : a;
}
template <typename T>
constexpr T max(T a, T b)
{
    return a < b ? b : a;
}
