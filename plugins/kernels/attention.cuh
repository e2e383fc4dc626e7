// Attention: rotary, the append to the cache and the softmax over a split cache, one launch.
//
// A block takes one sequence, one KV head, up to kTiles x 8 of the queries that share it (the heads
// of a group times the new tokens) and one split of the keys. A warp takes 16 keys at a time, on
// tensor cores, straight from the cache to registers; for lane = 4 g + t:
//
//   scores = Q K^T:   a: query g (and g + 8), from shared memory;  b: key g
//                     both with the elements 32c + 8t .. + 7, a 16-byte load: the sum over a head
//                     has no order
//   c: query g, keys 2t, 2t + 1 (and + 8)  =  b of the next product, as it lies
//   out^T = V^T P^T:  a: elements 64s + 8g .. + 7 of the keys 2t, 2t + 1, 2t + 8, 2t + 9;
//                     b: weights of query g;  c: queries 2t, 2t + 1
//
// Each warp keeps its own softmax; the warps of a block meet in shared memory, the blocks of the
// splits in one another's (a cluster) or in the workspace, where the block that comes last adds.
//
// New keys are taken from `k` and rotated on the fly, not from the cache, since another block may
// not have written them yet. Many new tokens are stored by append_kernel first.
#pragma once

#include "attention_append.cuh"
#include "cluster.cuh"
#include "mma.cuh"
#include "softmax.cuh"

namespace river
{
constexpr int kKeysOfWarp = 16;
constexpr int kMergeLanes = 4;  // that share the splits of an item,
constexpr int kMergeAtOnce = 4; // and the parts that each of them loads together

template <int kDim, int kTiles, int kWarps>
struct AttentionShared
{
    static constexpr int kQueries = 8 * kTiles;
    static constexpr int kItems = kQueries * kDim / 4; // of four output elements

    union
    {
        struct // until the last key
        {
            uint4 queries[kDim / 32][2][kWarpSize]; // fragments `a`, lane by lane
            uint16_t new_keys[kFusedAppendTokens][kDim + 32];
            uint16_t new_values[kFusedAppendTokens][kDim];
        };
        float out[kWarps][kQueries][kDim + 4]; // then
    };
    Softmax softmax[kWarps][kQueries];
    float4 sent_out[kItems]; // by the blocks of the cluster
    Softmax sent_softmax[kItems];
    Arrivals sent;
};

template <typename T, int kDim, int kTiles, int kWarps>
struct AttentionBlock
{
    static constexpr int kQueries = 8 * kTiles;
    static constexpr int kThreads = kWarps * kWarpSize;
    static constexpr int kChunks = kDim / 32;
    static constexpr int kSlabs = kDim / 64;
    using Shared = AttentionShared<kDim, kTiles, kWarps>;

    AttentionArgs const& args;
    Shared& shared;
    int chunk = 0; // of kQueries queries
    int kv_head = 0;
    int b = 0;
    int past = 0;
    int from = 0; // this split's keys
    int to = 0;
    int stored = 0; // those below are in the cache when this kernel starts

    __device__ __forceinline__ int heads_per_kv() const
    {
        return args.heads_per_kv;
    }
    __device__ __forceinline__ int queries() const // of the whole KV head, token by token
    {
        return heads_per_kv() * args.p.seq;
    }

    // The keys that any query of this chunk sees, and this split's share of them.
    __device__ __forceinline__ void divide_keys(int split)
    {
        AttentionParams const& p = args.p;
        int const first_token = args.by_heads_per_kv(chunk * kQueries);
        int const last_token =
            min(p.seq - 1, args.by_heads_per_kv(chunk * kQueries + kQueries - 1));
        int const end = min(past + last_token + 1, usable_slots(p));
        int const begin = p.window > 0 ? max(0, past + first_token - p.window + 1) : 0;
        int const units = (max(0, end - begin) + kKeysOfWarp - 1) / kKeysOfWarp;
        int const share = args.by_splits(units + args.splits - 1) * kKeysOfWarp;
        from = begin + split * share;
        to = min(end, from + share);
        stored = args.appended ? to : min(past, to);
    }

    // Eight elements of a query, or of a new key and value: what a thread brings to shared memory.
    struct RowPart
    {
        char const* head;
        int token;
        int row; // of the queries, or -1
        int at;
        Turns turns;
    };

    __device__ __forceinline__ int parts_of_rows() const
    {
        int const tokens = stored < to ? min(args.p.seq, to - past) : 0;
        return (rows() + tokens) * (kDim / 8);
    }
    __device__ __forceinline__ int rows() const // queries that there are
    {
        return min(kQueries, queries() - chunk * kQueries);
    }

    // All that is known of a part before the predecessor has written its elements.
    __device__ __forceinline__ void plan(int i, RowPart& part) const
    {
        AttentionParams const& p = args.p;
        int const row = i / (kDim / 8);
        part.at = 8 * (i % (kDim / 8));
        part.row = row < rows() ? row : -1;
        int const index = chunk * kQueries + row;
        part.token = part.row >= 0 ? args.by_heads_per_kv(index) : row - rows();
        int const head = part.row >= 0 ? (kv_head - part.token) * heads_per_kv() + index : kv_head;
        size_t const input = static_cast<size_t>(b) * p.seq + part.token;
        part.head = at16(part.row >= 0 ? p.q : p.k,
            input * (part.row >= 0 ? p.q_stride : p.k_stride)
                + static_cast<size_t>(head) * p.head_dim);
        if (part.at < p.head_dim)
            part.turns.load(args, part.at, past + part.token);
    }

    __device__ __forceinline__ void bring(RowPart const& part)
    {
        AttentionParams const& p = args.p;
        int const at = part.at;
        if (at >= p.head_dim)
            return;
        if (part.row >= 0)
        {
            uint4 const query = part.turns.template of<T>(args, part.head, at);
            auto* const word = reinterpret_cast<uint32_t*>(
                &shared.queries[at / 32][0][4 * (part.row % 8) + at % 32 / 8]);
            word[part.row / 8] = query.x;
            word[part.row / 8 + 2] = query.y;
            word[4 * kWarpSize + part.row / 8] = query.z;
            word[4 * kWarpSize + part.row / 8 + 2] = query.w;
            return;
        }
        size_t const input = static_cast<size_t>(b) * p.seq + part.token;
        size_t const column = static_cast<size_t>(kv_head) * p.head_dim + at;
        uint4 const value = load16(at16(p.v, input * p.v_stride + column));
        uint4 const rotated = part.turns.template of<T>(args, part.head, at);
        store16(&shared.new_keys[part.token][at], rotated);
        store16(&shared.new_values[part.token][at], value);
        int const key = past + part.token;
        bool const own = part.token * heads_per_kv() / kQueries == chunk; // one chunk stores it
        if (!own || key < from)
            return;
        size_t const slot = cache_offset(p, b, kv_head, key) + at;
        store16(at16(p.k_cache, slot), rotated);
        store16(at16(p.v_cache, slot), value);
    }

    // What no part of a row fills and a fragment reads.
    __device__ __forceinline__ void clear_rest()
    {
        constexpr int kVectors = kDim / 8;
        uint4 const zeros = make_uint4(0U, 0U, 0U, 0U);
        for (int i = threadIdx.x; i < kDim / 16 * kWarpSize; i += kThreads)
            store16(&shared.queries[0][0][0] + i, zeros);
        if (args.p.head_dim == kDim)
            return;
        for (int i = threadIdx.x; i < kFusedAppendTokens * kVectors; i += kThreads)
        {
            store16(&shared.new_keys[i / kVectors][8 * (i % kVectors)], zeros);
            store16(&shared.new_values[i / kVectors][8 * (i % kVectors)], zeros);
        }
    }

    // What a warp will load after its next unit, on its way from memory. Where many warps share a
    // device their loads are enough, and a second request of each line costs more than it brings.
    __device__ __forceinline__ void prefetch(char const* k_head, char const* v_head, int base) const
    {
        int const row_bytes = 2 * args.p.head_dim;
        int const bytes = min(kKeysOfWarp, stored - base) * row_bytes;
        size_t const start = static_cast<size_t>(base) * row_bytes;
#pragma unroll
        for (int i = 0; i < (kDim + 127) / 128; ++i)
        {
            int const at = 128 * (threadIdx.x % kWarpSize) + 4096 * i;
            if (at >= bytes)
                continue;
            prefetch_to_l2(k_head + start + at);
            prefetch_to_l2(v_head + start + at);
        }
    }

    // Most of a cache is whole units of whole heads, whose loads need no condition.
    __device__ __forceinline__ bool is_whole(int base) const
    {
        return base + kKeysOfWarp <= stored && args.p.head_dim == kDim;
    }

    __device__ __forceinline__ void load_keys(
        char const* head, int base, uint4 (&keys)[2][kChunks]) const
    {
        int const g = threadIdx.x % kWarpSize / 4;
        int const t = threadIdx.x % 4;
        if (is_whole(base))
        {
            char const* const row = head + static_cast<size_t>(base + g) * (2 * kDim) + 16 * t;
#pragma unroll
            for (int i = 0; i < 2; ++i)
#pragma unroll
                for (int c = 0; c < kChunks; ++c)
                    keys[i][c] = load_stream(row + 16 * kDim * i + 64 * c);
            return;
        }
        size_t const row_bytes = 2 * static_cast<size_t>(args.p.head_dim);
        char const* const row = head + (base + g) * row_bytes + 16 * t;
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
            for (int c = 0; c < kChunks; ++c)
            {
                keys[i][c] = make_uint4(0U, 0U, 0U, 0U);
                if (base + 8 * i + g < stored && 32 * c + 8 * t < args.p.head_dim)
                    keys[i][c] = load_stream(row + 8 * i * row_bytes + 64 * c);
            }
    }
    __device__ __forceinline__ void load_values(
        char const* head, int base, uint4 (&values)[4][kSlabs]) const
    {
        int const g = threadIdx.x % kWarpSize / 4;
        int const t = threadIdx.x % 4;
        if (is_whole(base))
        {
            char const* const row = head + static_cast<size_t>(base + 2 * t) * (2 * kDim) + 16 * g;
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int s = 0; s < kSlabs; ++s)
                    values[i][s] = load_stream(row + (i % 2 + 8 * (i / 2)) * (2 * kDim) + 128 * s);
            return;
        }
        size_t const row_bytes = 2 * static_cast<size_t>(args.p.head_dim);
        char const* const row = head + (base + 2 * t) * row_bytes + 16 * g;
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
            for (int s = 0; s < kSlabs; ++s)
            {
                int const key = i % 2 + 8 * (i / 2);
                values[i][s] = make_uint4(0U, 0U, 0U, 0U);
                if (base + 2 * t + key < stored && 64 * s + 8 * g < args.p.head_dim)
                    values[i][s] = load_stream(row + key * row_bytes + 128 * s);
            }
    }

    // New tokens in place of what the cache does not hold yet.
    __device__ __forceinline__ void take_new(
        int base, uint4 (&keys)[2][kChunks], uint4 (&values)[4][kSlabs]) const
    {
        int const g = threadIdx.x % kWarpSize / 4;
        int const t = threadIdx.x % 4;
#pragma unroll
        for (int i = 0; i < 2; ++i)
        {
            int const key = base + 8 * i + g;
            if (key >= stored && key < to)
#pragma unroll
                for (int c = 0; c < kChunks; ++c)
                    keys[i][c] = load16(&shared.new_keys[key - past][32 * c + 8 * t]);
        }
#pragma unroll
        for (int i = 0; i < 4; ++i)
        {
            int const key = base + 2 * t + i % 2 + 8 * (i / 2);
            if (key >= stored && key < to)
#pragma unroll
                for (int s = 0; s < kSlabs; ++s)
                    values[i][s] = load16(&shared.new_values[key - past][64 * s + 8 * g]);
        }
    }

    // Four elements of a query's result.
    __device__ __forceinline__ void write(int q, int d, MergedOutput const& merged) const
    {
        AttentionParams const& p = args.p;
        int const index = chunk * kQueries + q;
        int const token = args.by_heads_per_kv(index);
        int const head = (kv_head - token) * heads_per_kv() + index;
        size_t const row = static_cast<size_t>(b) * p.seq + token;
        // No visible key: zeros.
        float const factor = merged.sum > 0.F ? divide_fast(1.F, merged.sum) : 0.F;
        uint2 const packed =
            make_uint2(Numeric<T>::pack(merged.out[0] * factor, merged.out[1] * factor),
                Numeric<T>::pack(merged.out[2] * factor, merged.out[3] * factor));
        store8(at16(p.out, (row * p.num_heads + head) * p.head_dim + d), packed);
    }
};

template <typename T, int kDim, int kTiles, int kWarps>
__global__ void __launch_bounds__(kWarps* kWarpSize,
    kWarps == 8       ? 2
        : kDim == 256 ? 2
                      : 3) attention_kernel(__grid_constant__ AttentionArgs const args)
{
    using Block = AttentionBlock<T, kDim, kTiles, kWarps>;
    constexpr int kQueries = Block::kQueries;
    constexpr int kThreads = Block::kThreads;
    RIVER_SHARED(shared, AttentionShared<kDim, kTiles, kWarps>);
    AttentionParams const& p = args.p;
    int const split = blockIdx.x;
    Block block{args, shared};
    block.kv_head = args.by_chunks(static_cast<int>(blockIdx.y));
    block.chunk = static_cast<int>(blockIdx.y) - block.kv_head * args.chunks;
    block.b = blockIdx.z;
    block.past = p.past_lengths[block.b];
    block.divide_keys(split);
    int const to = block.to;

    int const warp = threadIdx.x / kWarpSize;
    int const g = threadIdx.x % kWarpSize / 4;
    int const t = threadIdx.x % 4;
    size_t const first_slot = cache_offset(p, block.b, block.kv_head, 0);
    char const* const k_head = at16(static_cast<void const*>(p.k_cache), first_slot);
    char const* const v_head = at16(static_cast<void const*>(p.v_cache), first_slot);
    uint4 keys[2][Block::kChunks];
    uint4 values[4][Block::kSlabs];

    // Before the wait only old slots and lengths are read: launch.h's rule for `programmatic`.
    if (args.appended)
        wait_for_predecessor();
    int base = block.from + warp * kKeysOfWarp;
    block.load_keys(k_head, base, keys);
    block.load_values(v_head, base, values);
    block.clear_rest();
    if (args.prefetch)
        block.prefetch(k_head, v_head, base + kWarps * kKeysOfWarp);
    // An item is four elements of a query's output; in a cluster, block i merges the items
    // i * share .. of all splits.
    constexpr int kVectors = kDim / 4;
    int const items = min(kQueries, block.queries() - block.chunk * kQueries) * kVectors;
    int const share = 1 << args.share_log2;
    int const begin = args.cluster ? split << args.share_log2 : 0;
    int const end = args.cluster ? min(items, begin + share) : items;
    if (args.cluster)
    {
        if (threadIdx.x == 0)
            expect(shared.sent,
                max(0, end - begin) * args.splits
                    * static_cast<int>(sizeof(float4) + sizeof(Softmax)));
        arrive_in_cluster(); // it has started: the others may send to it
    }
    __syncthreads();
    int const parts_of_rows = block.parts_of_rows();
    typename Block::RowPart part;
    block.plan(threadIdx.x, part);
    wait_for_predecessor();
    let_successor_start();
    for (int i = threadIdx.x; i < parts_of_rows;)
    {
        block.bring(part);
        i += kThreads;
        if (i < parts_of_rows)
            block.plan(i, part);
    }
    __syncthreads();

    int first_key[kTiles]; // that query g (+ 8) sees, and the last
    int last_key[kTiles];
    float maximum[kTiles];
    float sum[kTiles];
    float out[kTiles][4 * Block::kSlabs][4];
#pragma unroll
    for (int r = 0; r < kTiles; ++r)
    {
        int const index = block.chunk * kQueries + 8 * r + g;
        int const position = block.past + args.by_heads_per_kv(index);
        first_key[r] = p.window > 0 ? position - p.window + 1 : 0;
        last_key[r] = index < block.queries() ? min(position, to - 1) : -1;
        maximum[r] = -INFINITY;
        sum[r] = 0.F;
#pragma unroll
        for (int m = 0; m < 4 * Block::kSlabs; ++m)
#pragma unroll
            for (int i = 0; i < 4; ++i)
                out[r][m][i] = 0.F;
    }

    while (base < to)
    {
        if (base + kKeysOfWarp > block.stored && block.stored < to)
            block.take_new(base, keys, values);
        float dots[2][4] = {}; // keys 0..7 and 8..15
#pragma unroll
        for (int c = 0; c < Block::kChunks; ++c)
        {
            uint4 const low = load16(&shared.queries[c][0][threadIdx.x % kWarpSize]);
            uint4 const high = load16(&shared.queries[c][1][threadIdx.x % kWarpSize]);
            uint32_t const first[4] = {low.x, low.y, low.z, low.w};
            uint32_t const second[4] = {high.x, high.y, high.z, high.w};
#pragma unroll
            for (int i = 0; i < 2; ++i)
            {
                mma_16x8x16<T>(dots[i], first, keys[i][c].x, keys[i][c].y);
                mma_16x8x16<T>(dots[i], second, keys[i][c].z, keys[i][c].w);
            }
        }
        int const next = base + kWarps * kKeysOfWarp;
        if (next < to)
            block.load_keys(k_head, next, keys);

        uint32_t weights[kTiles][2];
#pragma unroll
        for (int r = 0; r < kTiles; ++r)
        {
            float score[4];
#pragma unroll
            for (int i = 0; i < 4; ++i)
            {
                int const key = base + 8 * (i / 2) + 2 * t + i % 2;
                float const dot = dots[i / 2][2 * r + i % 2];
                score[i] = p.softcap > 0.F ? softcapped(dot * args.scale_cap, p.softcap)
                                           : dot * args.scale_log2;
                if (key < first_key[r] || key > last_key[r])
                    score[i] = -INFINITY;
            }
            float largest = fmaxf(fmaxf(score[0], score[1]), fmaxf(score[2], score[3]));
            largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 1));
            largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 2));
            largest = fmaxf(largest, maximum[r]);
            float const shift = shift_of(largest);
            float const kept = exp2_fast(maximum[r] - shift);
            maximum[r] = largest;
#pragma unroll
            for (int i = 0; i < 4; ++i)
                score[i] = exp2_fast(score[i] - shift);
            sum[r] = sum[r] * kept + ((score[0] + score[1]) + (score[2] + score[3]));
            weights[r][0] = Numeric<T>::pack(score[0], score[1]);
            weights[r][1] = Numeric<T>::pack(score[2], score[3]);
            if (__ballot_sync(kAllLanes, kept != 1.F) == 0)
                continue; // no maximum has moved, which is the rule in a long cache
            float const even = __shfl_sync(kAllLanes, kept, 8 * t); // of queries 2t and 2t + 1
            float const odd = __shfl_sync(kAllLanes, kept, 8 * t + 4);
#pragma unroll
            for (int m = 0; m < 4 * Block::kSlabs; ++m)
            {
                out[r][m][0] *= even;
                out[r][m][1] *= odd;
                out[r][m][2] *= even;
                out[r][m][3] *= odd;
            }
        }

#pragma unroll
        for (int s = 0; s < Block::kSlabs; ++s)
        {
            uint32_t words[4][4]; // [key][pair of elements]
#pragma unroll
            for (int i = 0; i < 4; ++i)
            {
                words[i][0] = values[i][s].x;
                words[i][1] = values[i][s].y;
                words[i][2] = values[i][s].z;
                words[i][3] = values[i][s].w;
            }
#pragma unroll
            for (int j = 0; j < 4; ++j)
            {
                uint32_t const a[4] = {__byte_perm(words[0][j], words[1][j], 0x5410),
                    __byte_perm(words[0][j], words[1][j], 0x7632),
                    __byte_perm(words[2][j], words[3][j], 0x5410),
                    __byte_perm(words[2][j], words[3][j], 0x7632)};
#pragma unroll
                for (int r = 0; r < kTiles; ++r)
                    mma_16x8x16<T>(out[r][4 * s + j], a, weights[r][0], weights[r][1]);
            }
        }
        if (next < to)
        {
            block.load_values(v_head, next, values);
            if (args.prefetch)
                block.prefetch(k_head, v_head, next + kWarps * kKeysOfWarp);
        }
        base = next;
    }
    __syncthreads(); // the outputs lie where the queries were

    // The warps of the block.
#pragma unroll
    for (int r = 0; r < kTiles; ++r)
    {
        sum[r] = warp_sum<4>(sum[r]);
        if (t == 0)
            shared.softmax[warp][8 * r + g] = Softmax{maximum[r], sum[r]};
#pragma unroll
        for (int s = 0; s < Block::kSlabs; ++s)
#pragma unroll
            for (int odd = 0; odd < 2; ++odd)
            {
                float (*const m)[4] = &out[r][4 * s];
                float* const row = &shared.out[warp][8 * r + 2 * t + odd][64 * s + 8 * g];
                store_floats(row, m[0][odd], m[0][2 + odd], m[1][odd], m[1][2 + odd]);
                store_floats(row + 4, m[2][odd], m[2][2 + odd], m[3][odd], m[3][2 + odd]);
            }
    }
    __syncthreads();
    if (args.cluster)
        wait_in_cluster();

    size_t const work = static_cast<size_t>(block.b) * gridDim.y + blockIdx.y;
    size_t const parts = static_cast<size_t>(args.splits) * kQueries * kVectors;
    float4* const partial_out = args.partial_out + work * parts;
    Softmax* const partial_softmax = args.partial_softmax + work * parts;
    for (int i = threadIdx.x; i < items; i += kThreads)
    {
        int const q = i / kVectors;
        int const d = 4 * (i % kVectors);
        Softmax softmax[kWarps];
        float4 outs[kWarps];
#pragma unroll
        for (int w = 0; w < kWarps; ++w)
        {
            softmax[w] = shared.softmax[w][q];
            outs[w] = load_floats(&shared.out[w][q][d]);
        }
        MergedOutput merged;
        merged.add(softmax, outs);
        if (args.splits == 1)
        {
            if (d < p.head_dim)
                block.write(q, d, merged);
            continue;
        }
        Softmax const part{merged.maximum, merged.sum};
        float4 const values4 =
            make_float4(merged.out[0], merged.out[1], merged.out[2], merged.out[3]);
        if (args.cluster)
        {
            int const slot = (split << args.share_log2) + (i & (share - 1));
            int const rank = i >> args.share_log2;
            send(&shared.sent_out[slot], values4, shared.sent, rank);
            send(&shared.sent_softmax[slot], part, shared.sent, rank);
        }
        else
        {
            partial_out[split * (kQueries * kVectors) + i] = values4;
            partial_softmax[split * (kQueries * kVectors) + i] = part;
        }
    }
    if (args.splits == 1)
        return;

    if (args.cluster)
    {
        if (begin + warp * kWarpSize / kMergeLanes < end)
            wait_for(shared.sent);
    }
    else if (!arrives_last(args.counters + work, args.splits))
        return;
    constexpr int kItemsOfWarp = kWarpSize / kMergeLanes;
    for (int i0 = begin + warp * kItemsOfWarp; i0 < end; i0 += kWarps * kItemsOfWarp)
    {
        int const i = i0 + threadIdx.x % kWarpSize / kMergeLanes;
        int const q = i / kVectors;
        int const d = 4 * (i % kVectors);
        MergedOutput merged;
        for (int s0 = 0; s0 < args.splits; s0 += kMergeLanes * kMergeAtOnce)
        {
            Softmax softmax[kMergeAtOnce];
            float4 outs[kMergeAtOnce];
#pragma unroll
            for (int u = 0; u < kMergeAtOnce; ++u)
            {
                softmax[u] = Softmax{-INFINITY, 0.F};
                outs[u] = make_float4(0.F, 0.F, 0.F, 0.F);
                int const s = s0 + kMergeLanes * u + threadIdx.x % kMergeLanes;
                if (s >= args.splits || i >= end || d >= p.head_dim)
                    continue;
                if (args.cluster)
                {
                    softmax[u] = shared.sent_softmax[(s << args.share_log2) + i - begin];
                    outs[u] = shared.sent_out[(s << args.share_log2) + i - begin];
                }
                else
                {
                    int const at = s * (kQueries * kVectors) + i;
                    float2 const pair = load_shared_by_blocks(
                        reinterpret_cast<float2 const*>(partial_softmax + at));
                    softmax[u] = Softmax{pair.x, pair.y};
                    outs[u] = load_shared_by_blocks(partial_out + at);
                }
            }
            merged.add(softmax, outs);
        }
#pragma unroll
        for (int offset = 1; offset < kMergeLanes; offset *= 2)
            merged.add_lane(offset);
        if (threadIdx.x % kMergeLanes == 0 && i < end && d < p.head_dim)
            block.write(q, d, merged);
    }
}
} // namespace river
