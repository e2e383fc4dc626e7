// The gate: residual add, cosine, sticky flag, exit layer and the next layer's bank in one launch.
//
// One block a row. With the token scope each block decides for its own row; otherwise the block
// that comes last decides for all, from the scores that the others left in the workspace.
#pragma once

#include "numeric.cuh"

namespace river
{
constexpr int kGateThreads = 256;
constexpr int kGateWarps = kGateThreads / kWarpSize;
constexpr size_t kCounterBytes = 16; // the counter, then what needs 16-byte alignment

__device__ __forceinline__ void decide(
    GateParams const& p, int row, float score, float tau, bool pinned_next)
{
    bool const before = p.exited != nullptr && load_flag(p.exited, p.flag_type, row);
    int32_t const layer_before = p.exit_layer != nullptr ? p.exit_layer[row] : p.num_layers;
    bool const passed = score > tau; // false for NaN
    store_flag(p.exited_out, p.flag_type, row, before || passed);
    p.exit_layer_out[row] = passed && !before ? p.layer : layer_before;
    if (p.use_river_next != nullptr)
        store_flag(p.use_river_next, p.flag_type, row, (before || passed) && !pinned_next);
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
    for (int span = threadIdx.x / kWarpSize; span < spans; span += kGateWarps)
    {
        float least = INFINITY;
        for (int i = lane; i < length; i += kWarpSize)
            least = smaller_or_nan(load_shared_by_blocks(scores + span * length + i), least);
#pragma unroll
        for (int offset = kWarpSize / 2; offset > 0; offset /= 2)
            least = smaller_or_nan(__shfl_xor_sync(kAllLanes, least, offset), least);
        for (int i = lane; i < length; i += kWarpSize)
            decide(p, span * length + i, least, tau, pinned_next);
    }
}

template <typename T>
__global__ void __launch_bounds__(kGateThreads, 4) gate_kernel(__grid_constant__ GateParams const p)
{
    RIVER_SHARED(parts, float[3][kGateWarps]);
    let_successor_start();
    wait_for_predecessor();

    int const row = blockIdx.x;
    size_t const start = static_cast<size_t>(row) * p.hidden;
    bool const by_direction =
        p.direction != nullptr && (p.use_direction == nullptr || *p.use_direction);
    float dot = 0.F;
    float norm_reference = 0.F;
    float norm_out = 0.F;
    for (int at = 8 * threadIdx.x; at < p.hidden; at += 8 * kGateThreads)
    {
        float out[8];
        float reference[8];
        unpack8<T>(load16(at16(p.delta, start + at)), out);
        if (by_direction)
#pragma unroll
            for (int i = 0; i < 8; ++i)
                reference[i] = p.direction[at + i];
        else
            unpack8<T>(load16(at16(p.h_in, start + at)), reference);
        if (p.residual != nullptr)
        {
            float residual[8];
            unpack8<T>(load16(at16(p.residual, start + at)), residual);
#pragma unroll
            for (int i = 0; i < 8; ++i)
                out[i] += residual[i];
            uint4 const packed = pack8<T>(out);
            store16(at16(p.h_out, start + at), packed);
            unpack8<T>(packed, out);
        }
#pragma unroll
        for (int i = 0; i < 8; ++i)
        {
            dot += reference[i] * out[i];
            norm_reference += reference[i] * reference[i];
            norm_out += out[i] * out[i];
        }
    }
    dot = warp_sum(dot);
    norm_reference = warp_sum(norm_reference);
    norm_out = warp_sum(norm_out);
    int const warp = threadIdx.x / kWarpSize;
    if (threadIdx.x % kWarpSize == 0)
    {
        parts[0][warp] = dot;
        parts[1][warp] = norm_reference;
        parts[2][warp] = norm_out;
    }
    __syncthreads();

    int const scope = p.scope == nullptr ? static_cast<int>(kTokenScope) : *p.scope;
    float const tau = *p.tau;
    bool const pinned_next = p.pinned_next != nullptr && *p.pinned_next;
    auto* counter = static_cast<uint32_t*>(p.workspace);
    float* scores = reinterpret_cast<float*>(static_cast<char*>(p.workspace) + kCounterBytes);
    if (threadIdx.x == 0)
    {
        float total[3] = {0.F, 0.F, 0.F};
        for (int i = 0; i < 3; ++i)
            for (int w = 0; w < kGateWarps; ++w)
                total[i] += parts[i][w];
        // Two roots: the product of the squared norms may leave fp32. Zero vectors score 0.
        float const norms = sqrtf(total[1]) * sqrtf(total[2]);
        float const score = total[0] / fmaxf(norms, 1e-30F);
        if (p.score != nullptr)
            p.score[row] = score;
        if (scope == kTokenScope)
            decide(p, row, score, tau, pinned_next);
        else
            scores[row] = score;
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
