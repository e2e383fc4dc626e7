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
    int splits;               // of the keys, the grid's x
    int chunks;               // of a block's queries; the grid's y is num_kv_heads * chunks
    bool appended;            // append_kernel has stored the new keys and values
    bool cluster;             // the splits of one output are a cluster
    bool wide_turns;          // the rotary tables can be read 16 bytes at a time
    int share_log2;           // of the outputs that one block of a cluster merges
    float scale_log2;         // of the scores, times log2(e)
    float scale_cap;          // of the scores, times 2 log2(e) / softcap
    uint32_t* counters;       // [batch, num_kv_heads, chunks]
    float4* partial_out;      // [batch, num_kv_heads, chunks, splits, items]
    Softmax* partial_softmax; // the same
};

// Elements at .. at + 7 of a head, rotated for a position: x cos -+ partner sin on the first R.
template <typename T>
__device__ __forceinline__ void load_rotated(
    AttentionArgs const& args, char const* head, int at, int position, float (&values)[8])
{
    AttentionParams const& p = args.p;
    unpack8<T>(load16(head + 2 * at), values);
    int const half = p.rotary_dim / 2;
    if (at >= 2 * half)
        return;
    size_t const table = static_cast<size_t>(min(position, p.num_positions - 1)) * half;
    if (args.wide_turns) // then half is a multiple of 8, and the eight lie on one side
    {
        bool const first = at < half;
        int const other = first ? at + half : at - half;
        size_t const angle = table + (first ? at : other);
        float partner[8];
        unpack8<T>(load16(head + 2 * other), partner);
#pragma unroll
        for (int i = 0; i < 8; i += 4)
        {
            float4 const cos = load_floats(p.rotary_cos + angle + i);
            float4 const sin = load_floats(p.rotary_sin + angle + i);
            float const turn = first ? -1.F : 1.F;
            values[i] = values[i] * cos.x + turn * partner[i] * sin.x;
            values[i + 1] = values[i + 1] * cos.y + turn * partner[i + 1] * sin.y;
            values[i + 2] = values[i + 2] * cos.z + turn * partner[i + 2] * sin.z;
            values[i + 3] = values[i + 3] * cos.w + turn * partner[i + 3] * sin.w;
        }
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; ++i)
    {
        int const d = at + i;
        if (d >= 2 * half)
            continue;
        bool const first = d < half;
        size_t const angle = table + (first ? d : d - half);
        float const partner = Numeric<T>::load(head, first ? d + half : d - half);
        float const turn = first ? -p.rotary_sin[angle] : p.rotary_sin[angle];
        values[i] = values[i] * p.rotary_cos[angle] + partner * turn;
    }
}

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
        float key[8];
        load_rotated<T>(
            args, at16(p.k, static_cast<size_t>(token) * p.k_stride + column), at, slot, key);
        store16(at16(p.k_cache, stored), pack8<T>(key));
        store16(at16(p.v_cache, stored),
            load16(at16(p.v, static_cast<size_t>(token) * p.v_stride + column + at)));
    }
}
} // namespace river
