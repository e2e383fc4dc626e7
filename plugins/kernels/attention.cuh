// Decode attention: rotary, the append to the cache and the softmax over a split cache, one launch.
//
// A block takes one sequence, one KV head, up to kQueries of the queries that share it, and one
// split of the keys; the block that comes last of its splits adds them up. kLanes neighbouring
// lanes hold one key (8 elements a lane), so a warp has 32 / kLanes keys at a time. Every lane
// group keeps its own running maximum, sum and output, and they meet once, at the end.
//
// New keys are taken from `k` and rotated on the fly, not from the cache, since another block may
// not have written them yet. Many new tokens are stored by append_kernel first.
#pragma once

#include "numeric.cuh"

namespace river
{
constexpr int kAttentionWarps = 4;
constexpr int kAttentionThreads = kAttentionWarps * kWarpSize;
constexpr int kKeysAtOnce = 4; // of a lane group, so that eight loads are under way

struct AttentionArgs
{
    AttentionParams p;
    int splits;         // of the keys, the grid's x
    int chunks;         // of kQueries queries; the grid's y is num_kv_heads * chunks
    bool appended;      // append_kernel has stored the new keys and values
    uint32_t* counters; // [batch, num_kv_heads, chunks]
    float* partial;     // [batch, num_kv_heads, chunks, splits, kQueries, 2 + head_dim]
};

// Elements at .. at + 7 of a head, rotated for a position: x cos -+ partner sin on the first R.
template <typename T>
__device__ __forceinline__ void load_rotated(
    AttentionParams const& p, char const* head, int at, int position, float (&values)[8])
{
    unpack8<T>(load16(head + 2 * at), values);
    int const half = p.rotary_dim / 2;
    size_t const table = static_cast<size_t>(min(position, p.num_positions - 1)) * half;
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
    return ((static_cast<size_t>(b) * p.num_kv_heads + head) * p.capacity + slot) * p.head_dim;
}

__device__ __forceinline__ int usable_slots(AttentionParams const& p)
{
    return p.rotary_dim > 0 ? min(p.capacity, p.num_positions) : p.capacity;
}

// Stores the rotated k and the v of every new token. One block a token.
template <typename T>
__global__ void __launch_bounds__(kAttentionThreads)
    append_kernel(__grid_constant__ AttentionArgs const args)
{
    AttentionParams const& p = args.p;
    let_successor_start();
    wait_for_predecessor();
    int const token = blockIdx.x;
    int const b = token / p.seq;
    int const slot = p.past_lengths[b] + token % p.seq;
    if (slot >= usable_slots(p))
        return;
    int const vectors = p.head_dim / 8;
    for (int i = threadIdx.x; i < p.num_kv_heads * vectors; i += kAttentionThreads)
    {
        int const head = i / vectors;
        int const at = 8 * (i % vectors);
        size_t const column = static_cast<size_t>(head) * p.head_dim;
        size_t const stored = cache_offset(p, b, head, slot) + at;
        float key[8];
        load_rotated<T>(
            p, at16(p.k, static_cast<size_t>(token) * p.k_stride + column), at, slot, key);
        store16(at16(p.k_cache, stored), pack8<T>(key));
        store16(at16(p.v_cache, stored),
            load16(at16(p.v, static_cast<size_t>(token) * p.v_stride + column + at)));
    }
}

// A softmax under way for one query: over the keys seen so far.
struct Running
{
    float maximum; // -inf before the first visible key
    float sum;
    float out[8];
};

__device__ __forceinline__ float weight_of(float score, float maximum)
{
    return maximum == -INFINITY ? 0.F : __expf(score - maximum);
}

template <typename T, int kLanes, int kQueries>
__global__ void __launch_bounds__(kAttentionThreads, kQueries == 1 ? 4 : 2)
    attention_kernel(__grid_constant__ AttentionArgs const args)
{
    constexpr int kSlots = kAttentionWarps * (kWarpSize / kLanes); // keys of a block at a time
    constexpr int kMaxDim = 8 * kLanes;
    RIVER_SHARED(warp_maximum, float[kAttentionWarps][kQueries]);
    RIVER_SHARED(warp_sums, float[kAttentionWarps][kQueries]);
    RIVER_SHARED(warp_out, float[kAttentionWarps][kQueries][kMaxDim]);
    AttentionParams const& p = args.p;
    let_successor_start();
    wait_for_predecessor();

    int const split = blockIdx.x;
    int const kv_head = blockIdx.y / args.chunks;
    int const chunk = blockIdx.y % args.chunks;
    int const b = blockIdx.z;
    int const heads_per_kv = p.num_heads / p.num_kv_heads;
    int const queries = heads_per_kv * p.seq; // that share the KV head, token by token
    int const past = p.past_lengths[b];
    int const lane = threadIdx.x % kWarpSize;
    int const warp = threadIdx.x / kWarpSize;
    int const at = 8 * (lane % kLanes); // this lane's elements of a head
    bool const has_elements = at < p.head_dim;
    int const slot = warp * (kWarpSize / kLanes) + lane / kLanes;

    float query[kQueries][8];
    int position[kQueries]; // of the token; -1: no such query
    Running state[kQueries];
#pragma unroll
    for (int q = 0; q < kQueries; ++q)
    {
        int const index = chunk * kQueries + q;
        int const token = index / heads_per_kv;
        position[q] = index < queries ? past + token : -1;
        state[q].maximum = -INFINITY;
        state[q].sum = 0.F;
#pragma unroll
        for (int i = 0; i < 8; ++i)
            query[q][i] = state[q].out[i] = 0.F;
        if (position[q] < 0 || !has_elements)
            continue;
        int const head = kv_head * heads_per_kv + index % heads_per_kv;
        size_t const row = static_cast<size_t>(b) * p.seq + token;
        load_rotated<T>(p, at16(p.q, row * p.q_stride + static_cast<size_t>(head) * p.head_dim), at,
            position[q], query[q]);
    }

    // The keys that any query of this chunk sees, and this split's share of them.
    int const first_token = chunk * kQueries / heads_per_kv;
    int const last_token = min(p.seq - 1, (chunk * kQueries + kQueries - 1) / heads_per_kv);
    int const end = min(past + last_token + 1, usable_slots(p));
    int const begin = p.window > 0 ? max(0, past + first_token - p.window + 1) : 0;
    int const steps = (max(0, end - begin) + kSlots - 1) / kSlots;
    int const share = (steps + args.splits - 1) / args.splits * kSlots;
    int const from = begin + split * share;
    int const to = min(end, from + share);

    for (int base = from; base < to; base += kSlots * kKeysAtOnce)
    {
        uint4 value[kKeysAtOnce];
        float score[kKeysAtOnce][kQueries];
#pragma unroll
        for (int u = 0; u < kKeysAtOnce; ++u)
        {
            int const key = base + u * kSlots + slot;
            bool const valid = key < to && has_elements;
            uint4 packed = make_uint4(0U, 0U, 0U, 0U);
            value[u] = packed;
            if (valid && (args.appended || key < past))
            {
                size_t const stored = cache_offset(p, b, kv_head, key) + at;
                packed = load16(at16(static_cast<void const*>(p.k_cache), stored));
                value[u] = load16(at16(static_cast<void const*>(p.v_cache), stored));
            }
            else if (valid)
            {
                int const token = key - past;
                size_t const row = static_cast<size_t>(b) * p.seq + token;
                size_t const column = static_cast<size_t>(kv_head) * p.head_dim;
                float rotated[8];
                load_rotated<T>(p, at16(p.k, row * p.k_stride + column), at, key, rotated);
                packed = pack8<T>(rotated);
                value[u] = load16(at16(p.v, row * p.v_stride + column + at));
                if (token * heads_per_kv / kQueries == chunk) // one chunk stores a token
                {
                    size_t const stored = cache_offset(p, b, kv_head, key) + at;
                    store16(at16(p.k_cache, stored), packed);
                    store16(at16(p.v_cache, stored), value[u]);
                }
            }
            float elements[8];
            unpack8<T>(packed, elements);
#pragma unroll
            for (int q = 0; q < kQueries; ++q)
            {
                float dot = 0.F;
#pragma unroll
                for (int i = 0; i < 8; ++i)
                    dot += query[q][i] * elements[i];
                dot = warp_sum<kLanes>(dot) * p.scale;
                if (p.softcap > 0.F)
                    dot = p.softcap * tanhf(dot / p.softcap);
                bool const visible = key < to && key <= position[q]
                    && (p.window == 0 || key > position[q] - p.window);
                score[u][q] = visible ? dot : -INFINITY;
            }
        }
#pragma unroll
        for (int q = 0; q < kQueries; ++q)
        {
            float maximum = state[q].maximum;
#pragma unroll
            for (int u = 0; u < kKeysAtOnce; ++u)
                maximum = fmaxf(maximum, score[u][q]);
            float const kept = weight_of(state[q].maximum, maximum);
            state[q].maximum = maximum;
            state[q].sum *= kept;
#pragma unroll
            for (int i = 0; i < 8; ++i)
                state[q].out[i] *= kept;
#pragma unroll
            for (int u = 0; u < kKeysAtOnce; ++u)
            {
                float const weight = weight_of(score[u][q], maximum);
                float elements[8];
                unpack8<T>(value[u], elements);
                state[q].sum += weight;
#pragma unroll
                for (int i = 0; i < 8; ++i)
                    state[q].out[i] += weight * elements[i];
            }
        }
    }

    // The lane groups of a warp, then the warps.
#pragma unroll
    for (int q = 0; q < kQueries; ++q)
    {
        float maximum = state[q].maximum;
#pragma unroll
        for (int offset = kLanes; offset < kWarpSize; offset *= 2)
            maximum = fmaxf(maximum, __shfl_xor_sync(kAllLanes, maximum, offset));
        float const kept = weight_of(state[q].maximum, maximum);
        float sum = state[q].sum * kept;
#pragma unroll
        for (int offset = kLanes; offset < kWarpSize; offset *= 2)
            sum += __shfl_xor_sync(kAllLanes, sum, offset);
        if (lane == 0)
        {
            warp_maximum[warp][q] = maximum;
            warp_sums[warp][q] = sum;
        }
#pragma unroll
        for (int i = 0; i < 8; ++i)
        {
            float out = state[q].out[i] * kept;
#pragma unroll
            for (int offset = kLanes; offset < kWarpSize; offset *= 2)
                out += __shfl_xor_sync(kAllLanes, out, offset);
            if (lane < kLanes)
                warp_out[warp][q][at + i] = out;
        }
    }
    __syncthreads();

    auto const write = [&](int q, int d, float out, float sum)
    {
        int const index = chunk * kQueries + q;
        if (index >= queries)
            return;
        int const head = kv_head * heads_per_kv + index % heads_per_kv;
        size_t const row = static_cast<size_t>(b) * p.seq + index / heads_per_kv;
        Numeric<T>::store(p.out, (row * p.num_heads + head) * p.head_dim + d,
            sum > 0.F ? out / sum : 0.F); // no visible key: zeros
    };
    size_t const work = static_cast<size_t>(b) * gridDim.y + blockIdx.y;
    int const record = 2 + p.head_dim; // maximum, sum, output
    float* const partial = args.partial + work * args.splits * kQueries * record;
    for (int i = threadIdx.x; i < kQueries * p.head_dim; i += kAttentionThreads)
    {
        int const q = i / p.head_dim;
        int const d = i % p.head_dim;
        float maximum = -INFINITY;
        for (int w = 0; w < kAttentionWarps; ++w)
            maximum = fmaxf(maximum, warp_maximum[w][q]);
        float sum = 0.F;
        float out = 0.F;
        for (int w = 0; w < kAttentionWarps; ++w)
        {
            float const kept = weight_of(warp_maximum[w][q], maximum);
            sum += warp_sums[w][q] * kept;
            out += warp_out[w][q][d] * kept;
        }
        if (args.splits == 1)
        {
            write(q, d, out, sum);
            continue;
        }
        float* const mine = partial + (split * kQueries + q) * record;
        mine[2 + d] = out;
        if (d == 0)
        {
            mine[0] = maximum;
            mine[1] = sum;
        }
    }
    if (args.splits == 1 || !arrives_last(args.counters + work, args.splits))
        return;
    for (int i = threadIdx.x; i < kQueries * p.head_dim; i += kAttentionThreads)
    {
        int const q = i / p.head_dim;
        int const d = i % p.head_dim;
        float maximum = -INFINITY;
        for (int s = 0; s < args.splits; ++s)
            maximum = fmaxf(maximum, load_shared_by_blocks(partial + (s * kQueries + q) * record));
        float sum = 0.F;
        float out = 0.F;
        for (int s = 0; s < args.splits; ++s)
        {
            float const* const theirs = partial + (s * kQueries + q) * record;
            float const kept = weight_of(load_shared_by_blocks(theirs), maximum);
            sum += load_shared_by_blocks(theirs + 1) * kept;
            out += load_shared_by_blocks(theirs + 2 + d) * kept;
        }
        write(q, d, out, sum);
    }
}
} // namespace river
