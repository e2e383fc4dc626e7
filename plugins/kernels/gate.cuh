// The gate: residual add, cosine, sticky flag, exit layer and the next layer's bank in one launch.
//
// One block a row, with a thread for every 8 elements up to 8,192. With the token scope each block
// decides for its own row; otherwise the block that comes last decides for all, from the scores that
// the others left in the workspace.
#pragma once

#include "numeric.cuh"

namespace river
{
constexpr int kMaxGateThreads = 1024;
constexpr int kMaxGateWarps = kMaxGateThreads / kWarpSize;

// What is known of a row before this layer.
struct RowBefore
{
    bool exited;
    int32_t exit_layer;
};

__device__ __forceinline__ RowBefore load_row(GateParams const& p, int row)
{
    return {p.exited != nullptr && load_flag(p.exited, p.flag_type, row),
        p.exit_layer != nullptr ? p.exit_layer[row] : p.num_layers};
}

__device__ __forceinline__ void decide(
    GateParams const& p, int row, RowBefore const& before, float score, float tau, bool pinned_next)
{
    bool const passed = score > tau; // false for NaN
    bool const exited = before.exited || passed;
    store_flag(p.exited_out, p.flag_type, row, exited);
    p.exit_layer_out[row] = passed && !before.exited ? p.layer : before.exit_layer;
    if (p.use_river_next != nullptr)
        store_flag(p.use_river_next, p.flag_type, row, exited && !pinned_next);
}

// NaN if any score is, as torch.amin has it: then nobody exits.
__device__ __forceinline__ float smaller_or_nan(float a, float b)
{
    return a < b || a != a ? a : b;
}

// Scores of spans of `length` rows; a warp takes a span.
__device__ __forceinline__ void decide_by_span(
    GateParams const& p, float const* scores, int spans, int length, float tau, bool pinned_next)
{
    int const lane = threadIdx.x % kWarpSize;
    for (int span = threadIdx.x / kWarpSize; span < spans; span += blockDim.x / kWarpSize)
    {
        float least = INFINITY;
        for (int i = lane; i < length; i += kWarpSize)
            least = smaller_or_nan(load_shared_by_blocks(scores + span * length + i), least);
#pragma unroll
        for (int offset = kWarpSize / 2; offset > 0; offset /= 2)
            least = smaller_or_nan(__shfl_xor_sync(kAllLanes, least, offset), least);
        for (int i = lane; i < length; i += kWarpSize)
        {
            int const row = span * length + i;
            decide(p, row, load_row(p, row), least, tau, pinned_next);
        }
    }
}

// Eight elements of the reference: of the direction in fp32, or of the block's input.
struct Reference
{
    uint4 words[2];

    __device__ __forceinline__ void load(
        GateParams const& p, bool by_direction, size_t start, int at)
    {
        words[1] = make_uint4(0U, 0U, 0U, 0U);
        if (!by_direction)
        {
            words[0] = load16(at16(p.h_in, start + at));
            return;
        }
        words[0] = load16(p.direction + at);
        words[1] = load16(p.direction + at + 4);
    }
    template <typename T>
    __device__ __forceinline__ void unpack(bool by_direction, float (&values)[8]) const
    {
        if (!by_direction)
            return unpack8<T>(words[0], values);
#pragma unroll
        for (int half = 0; half < 2; ++half)
        {
            float4 const four = bits<float4>(words[half]);
            values[4 * half] = four.x;
            values[4 * half + 1] = four.y;
            values[4 * half + 2] = four.z;
            values[4 * half + 3] = four.w;
        }
    }
};

template <typename T>
__global__ void __launch_bounds__(kMaxGateThreads, 1)
    gate_kernel(__grid_constant__ GateParams const p)
{
    RIVER_SHARED(parts, float[3][kMaxGateWarps]);
    int const row = blockIdx.x;
    int const threads = static_cast<int>(blockDim.x);
    int const lane = threadIdx.x % kWarpSize;
    int const warp = threadIdx.x / kWarpSize;
    size_t const start = static_cast<size_t>(row) * p.hidden;

    // Before the wait: all but delta is older than the kernel before this one (launch.h).
    bool const by_direction =
        p.direction != nullptr && (p.use_direction == nullptr || *p.use_direction);
    int const scope = p.scope == nullptr ? static_cast<int>(kTokenScope) : *p.scope;
    float const tau = *p.tau;
    bool const pinned_next = p.pinned_next != nullptr && *p.pinned_next;
    RowBefore const before = load_row(p, row);
    int at = 8 * static_cast<int>(threadIdx.x);
    uint4 residual = make_uint4(0U, 0U, 0U, 0U);
    Reference reference{};
    if (at < p.hidden)
    {
        reference.load(p, by_direction, start, at);
        if (p.residual != nullptr)
            residual = load16(at16(p.residual, start + at));
    }
    wait_for_predecessor();
    let_successor_start();

    float sums[3] = {0.F, 0.F, 0.F}; // reference out, reference reference, out out
    for (; at < p.hidden; at += 8 * threads)
    {
        if (at >= 8 * threads)
        {
            reference.load(p, by_direction, start, at);
            if (p.residual != nullptr)
                residual = load16(at16(p.residual, start + at));
        }
        float out[8];
        float values[8];
        unpack8<T>(load16(at16(p.delta, start + at)), out);
        if (p.residual != nullptr)
        {
            unpack8<T>(residual, values);
#pragma unroll
            for (int i = 0; i < 8; ++i)
                out[i] += values[i];
            uint4 const packed = pack8<T>(out);
            store16(at16(p.h_out, start + at), packed);
            unpack8<T>(packed, out);
        }
        reference.unpack<T>(by_direction, values);
#pragma unroll
        for (int i = 0; i < 8; ++i)
        {
            sums[0] += values[i] * out[i];
            sums[1] += values[i] * values[i];
            sums[2] += out[i] * out[i];
        }
    }
#pragma unroll
    for (int i = 0; i < 3; ++i)
    {
        sums[i] = warp_sum(sums[i]);
        if (lane == 0)
            parts[i][warp] = sums[i];
    }
    __syncthreads();

    auto* counter = static_cast<uint32_t*>(p.workspace);
    float* scores = reinterpret_cast<float*>(static_cast<char*>(p.workspace) + kGateCounterBytes);
    if (warp == 0)
    {
#pragma unroll
        for (int i = 0; i < 3; ++i)
            sums[i] = warp_sum(kWarpSize * lane < threads ? parts[i][lane] : 0.F);
        // Two roots: the product of the squared norms may leave fp32. Zero vectors score 0.
        float const score = sums[0] / fmaxf(sqrtf(sums[1]) * sqrtf(sums[2]), 1e-30F);
        if (lane == 0)
        {
            if (p.score != nullptr)
                p.score[row] = score;
            if (p.sum_squares != nullptr)
                p.sum_squares[row] = sums[2];
            if (scope == kTokenScope)
                decide(p, row, before, score, tau, pinned_next);
            else
                scores[row] = score;
        }
    }
    if (scope == kTokenScope)
        return;
    int const rows = p.batch * p.seq;
    if (!arrives_last(counter, rows))
        return;
    if (scope == kSequenceScope)
        decide_by_span(p, scores, p.batch, p.seq, tau, pinned_next);
    else
        decide_by_span(p, scores, 1, rows, tau, pinned_next);
}
} // namespace river
