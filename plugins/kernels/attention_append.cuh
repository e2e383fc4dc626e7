// The rotation of queries and keys, and the kernel that stores many new tokens before attention.
#pragma once

#include "softmax.cuh"

namespace river
{
constexpr int kFusedAppendTokens = 8; // more new tokens are stored by append_kernel
constexpr int kMaxClusterBlocks = 16;
constexpr int kAppendThreads = 128;

// Division by a number that the host knows, for dividends below 2^31: a multiplication.
struct Divider
{
    uint32_t multiplier = 0;
    int shift = 0;

    Divider() = default;
    explicit Divider(int divisor)
    {
        while (1LL << shift < divisor)
            ++shift;
        uint64_t const power = 1ULL << (31 + shift);
        multiplier = static_cast<uint32_t>((power + divisor - 1) / divisor);
    }
    RIVER_BOTH int operator()(int dividend) const
    {
        return static_cast<int>(static_cast<uint64_t>(dividend) * multiplier >> (31 + shift));
    }
};

struct AttentionArgs
{
    AttentionParams p;
    int heads_per_kv;
    Divider by_heads_per_kv, by_chunks, by_splits;
    int splits;    // of the keys, the grid's x
    int chunks;    // of a block's queries; the grid's y is num_kv_heads * chunks
    bool appended; // append_kernel has stored the new keys and values
    bool cluster;  // the splits of one output are a cluster
    bool prefetch;
    bool wide_turns;          // the rotary tables can be read 16 bytes at a time
    int share_log2;           // of the outputs that one block of a cluster merges
    float scale_log2;         // of the scores, times log2(e)
    float scale_cap;          // of the scores, times 2 log2(e) / softcap
    uint32_t* counters;       // [batch, num_kv_heads, chunks]
    float4* partial_out;      // [batch, num_kv_heads, chunks, splits, items]
    Softmax* partial_softmax; // the same
};

// The rotation of the elements at .. at + 7 of a head: x cos + partner sin on the first R elements,
// with the sine's sign for the partner's side.
struct Turns
{
    float cos[8];
    float sin[8];

    __device__ __forceinline__ void load(AttentionArgs const& args, int at, int position)
    {
        AttentionParams const& p = args.p;
        int const half = p.rotary_dim / 2;
        size_t const table = static_cast<size_t>(min(position, p.num_positions - 1)) * half;
#pragma unroll
        for (int i = 0; i < 8; ++i)
        {
            cos[i] = 1.F;
            sin[i] = 0.F;
        }
        if (at >= 2 * half)
            return;
        if (args.wide_turns) // then half is a multiple of 8, and the eight lie on one side
        {
            size_t const angle = table + (at < half ? at : at - half);
            float const sign = at < half ? -1.F : 1.F;
#pragma unroll
            for (int i = 0; i < 8; i += 4)
            {
                float4 const c = load_floats(p.rotary_cos + angle + i);
                float4 const s = load_floats(p.rotary_sin + angle + i);
                cos[i] = c.x, cos[i + 1] = c.y, cos[i + 2] = c.z, cos[i + 3] = c.w;
                sin[i] = sign * s.x, sin[i + 1] = sign * s.y;
                sin[i + 2] = sign * s.z, sin[i + 3] = sign * s.w;
            }
            return;
        }
#pragma unroll
        for (int i = 0; i < 8; ++i)
        {
            int const d = at + i;
            if (d >= 2 * half)
                continue;
            size_t const angle = table + (d < half ? d : d - half);
            cos[i] = p.rotary_cos[angle];
            sin[i] = d < half ? -p.rotary_sin[angle] : p.rotary_sin[angle];
        }
    }

    // Eight elements of T, rotated.
    template <typename T>
    __device__ __forceinline__ uint4 of(AttentionArgs const& args, char const* head, int at) const
    {
        int const half = args.p.rotary_dim / 2;
        uint4 const own = load16(head + 2 * at);
        float partner[8];
        if (args.wide_turns)
        {
            int const other = at < half ? at + half : at < 2 * half ? at - half : at;
            unpack8<T>(load16(head + 2 * other), partner);
        }
        else
#pragma unroll
            for (int i = 0; i < 8; ++i)
            {
                int const d = at + i;
                int const other = d < half ? d + half : d < 2 * half ? d - half : d;
                partner[i] = Numeric<T>::load(head, other);
            }
        float values[8];
        unpack8<T>(own, values);
#pragma unroll
        for (int i = 0; i < 8; ++i)
            values[i] = values[i] * cos[i] + partner[i] * sin[i];
        return pack8<T>(values);
    }
};

__device__ __forceinline__ size_t cache_offset(AttentionParams const& p, int b, int head, int slot)
{
    int const row = p.cache_rows == nullptr ? b : p.cache_rows[b];
    return ((static_cast<size_t>(row) * p.num_kv_heads + head) * p.capacity + slot) * p.head_dim;
}

__device__ __forceinline__ int usable_slots(AttentionParams const& p)
{
    return p.rotary_dim > 0 ? min(p.capacity, p.num_positions) : p.capacity;
}

// Stores the rotated k and the v of every new token. One block a token.
template <typename T>
__global__ void __launch_bounds__(kAppendThreads)
    append_kernel(__grid_constant__ AttentionArgs const args)
{
    AttentionParams const& p = args.p;
    wait_for_predecessor();
    let_successor_start();
    int const token = blockIdx.x;
    int const b = token / p.seq;
    int const slot = p.past_lengths[b] + token % p.seq;
    if (slot >= usable_slots(p))
        return;
    int const vectors = p.head_dim / 8;
    for (int i = threadIdx.x; i < p.num_kv_heads * vectors; i += kAppendThreads)
    {
        int const head = i / vectors;
        int const at = 8 * (i % vectors);
        size_t const column = static_cast<size_t>(head) * p.head_dim;
        size_t const stored = cache_offset(p, b, head, slot) + at;
        Turns turns;
        turns.load(args, at, slot);
        char const* const key = at16(p.k, static_cast<size_t>(token) * p.k_stride + column);
        store16(at16(p.k_cache, stored), turns.of<T>(args, key, at));
        store16(at16(p.v_cache, stored),
            load16(at16(p.v, static_cast<size_t>(token) * p.v_stride + column + at)));
    }
}
} // namespace river
