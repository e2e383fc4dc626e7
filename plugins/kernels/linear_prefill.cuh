// What surrounds the matrix products of a prefill: prologue, dequantisation, select and epilogue.
#pragma once

#include "linear.cuh"
#include "packed.h"

namespace river
{
constexpr int kPrefillThreads = 256;

struct PrologueArgs
{
    LinearParams p;
    void* backbone; // [rows, k] T, x after the norm; nullptr: not wanted
    void* river;    // [rows, k] T, times pre_scale; nullptr: not wanted
};

// One block a row.
template <typename T>
__global__ void __launch_bounds__(kPrefillThreads)
    prologue_kernel(__grid_constant__ PrologueArgs const args)
{
    RIVER_SHARED(parts, float[kPrefillThreads / kWarpSize]);
    LinearParams const& p = args.p;
    wait_for_predecessor();
    let_successor_start();
    size_t const start = static_cast<size_t>(blockIdx.x) * p.k;
    float factor = 1.F;
    if (p.norm_weight != nullptr)
    {
        float sum = 0.F;
        for (int at = 8 * threadIdx.x; at < p.k; at += 8 * kPrefillThreads)
        {
            float values[8];
            unpack8<T>(load16(at16(p.x, start + at)), values);
#pragma unroll
            for (int i = 0; i < 8; ++i)
                sum += values[i] * values[i];
        }
        sum = warp_sum(sum);
        if (threadIdx.x % kWarpSize == 0)
            parts[threadIdx.x / kWarpSize] = sum;
        __syncthreads();
        sum = 0.F;
        for (int w = 0; w < kPrefillThreads / kWarpSize; ++w)
            sum += parts[w];
        factor = rsqrtf(sum / static_cast<float>(p.k) + p.norm_eps);
    }
    for (int at = 8 * threadIdx.x; at < p.k; at += 8 * kPrefillThreads)
    {
        float values[8];
        float factors[8];
        unpack8<T>(load16(at16(p.x, start + at)), values);
        if (p.norm_weight != nullptr)
        {
            unpack8<T>(load16(at16(p.norm_weight, at)), factors);
#pragma unroll
            for (int i = 0; i < 8; ++i)
                values[i] *= factor * factors[i];
        }
        if (args.backbone != nullptr)
            store16(at16(args.backbone, start + at), pack8<T>(values));
        if (args.river == nullptr)
            continue;
        if (p.river.pre_scale != nullptr)
        {
            unpack8<__half>(load16(at16(p.river.pre_scale, at)), factors);
#pragma unroll
            for (int i = 0; i < 8; ++i)
                values[i] *= factors[i];
        }
        store16(at16(args.river, start + at), pack8<T>(values));
    }
}

struct DequantiseArgs
{
    LinearParams p;
    int first;    // weight row
    int count;    // of weight rows
    void* weight; // [count, k] T
};

// A thread takes 32 codes.
template <typename T>
__global__ void __launch_bounds__(kPrefillThreads)
    dequantise_kernel(__grid_constant__ DequantiseArgs const args)
{
    LinearParams const& p = args.p;
    RiverBank const& river = p.river;
    wait_for_predecessor();
    let_successor_start();
    int const per_row = (p.k + 31) / 32;
    int64_t const i = static_cast<int64_t>(blockIdx.x) * kPrefillThreads + threadIdx.x;
    if (i >= static_cast<int64_t>(args.count) * per_row)
        return;
    int const row = static_cast<int>(i / per_row);
    int const at = 32 * static_cast<int>(i % per_row);
    int const groups = groups_of(p.k, river.group_size);
    size_t const n = static_cast<size_t>(args.first) + row;
    size_t const group = n * groups + at / river.group_size;
    size_t const row_bytes = static_cast<size_t>(groups) * river.group_size / 2;
    uint4 const codes =
        load_stream(static_cast<char const*>(river.qweight) + n * row_bytes + at / 2);
    float const scale = Numeric<__half>::load(river.scales, group);
    float const zero = river.zero_points == nullptr
        ? 8.F
        : static_cast<float>(static_cast<uint8_t const*>(river.zero_points)[group]);
    uint32_t const words[4] = {codes.x, codes.y, codes.z, codes.w};
#pragma unroll
    for (int word = 0; word < 4; ++word)
    {
        if (at + 8 * word >= p.k)
            break;
        float values[8];
#pragma unroll
        for (int e = 0; e < 8; ++e)
            values[e] = (static_cast<float>(words[word] >> (4 * e) & 0xfU) - zero) * scale;
        store16(
            at16(args.weight, static_cast<size_t>(row) * p.k + at + 8 * word), pack8<T>(values));
    }
}

// The same from a packed bank; `first` is a multiple of 16. A thread takes a lane's part of a chunk.
template <typename T>
__global__ void __launch_bounds__(kPrefillThreads)
    dequantise_packed_kernel(__grid_constant__ DequantiseArgs const args)
{
    LinearParams const& p = args.p;
    wait_for_predecessor();
    let_successor_start();
    PackedShape const shape{p.n, p.k, p.river.group_size};
    int64_t const i = static_cast<int64_t>(blockIdx.x) * kPrefillThreads + threadIdx.x;
    int const lane = static_cast<int>(i % kWarpSize);
    int const chunk = static_cast<int>(i / kWarpSize % shape.chunks());
    int const tile = static_cast<int>(i / kWarpSize / shape.chunks());
    int const at = chunk * kChunkColumns + 16 * (lane % 4);
    if (tile * kPackedOutputs >= args.count)
        return;
    char const* const panel = static_cast<char const*>(p.river.packed)
        + (args.first / kPackedOutputs + tile) * shape.tile_bytes()
        + static_cast<int64_t>(chunk / kPanelChunks) * shape.panel_bytes();
    int const in_panel = chunk % kPanelChunks;
    uint4 const codes = load16(panel + shape.scale_bytes() + in_panel * kChunkBytes + 16 * lane);
    uint32_t const words[4] = {codes.x, codes.y, codes.z, codes.w};
    int const scale_lane = lane / 4 * 4 + in_panel / 2;
#pragma unroll
    for (int half = 0; half < 2; ++half) // outputs g and g + 8
    {
        int const row = tile * kPackedOutputs + lane / 4 + 8 * half;
        if (row >= args.count)
            continue;
        int const place = shape.group_size == 64 ? 4 * scale_lane + 2 * half + in_panel % 2
                                                 : 2 * scale_lane + half;
        float2 const scale =
            Numeric<__half>::unpack(reinterpret_cast<uint32_t const*>(panel)[place]);
#pragma unroll
        for (int pair = 0; pair < 2; ++pair)
        {
            if (at + 8 * pair >= p.k)
                break;
            float values[8];
#pragma unroll
            for (int e = 0; e < 8; ++e)
            {
                int const nibble = half + 4 * (e % 2) + e % 4 / 2 * 2; // 0 2 1 3, see packed.h
                uint32_t const code = words[2 * pair + e / 4] >> (4 * nibble) & 0xfU;
                values[e] = (static_cast<float>(code) - scale.y) * scale.x;
            }
            store16(at16(args.weight, static_cast<size_t>(row) * p.k + at + 8 * pair),
                pack8<T>(values));
        }
    }
}

struct EpilogueArgs
{
    LinearParams p;
    void const* backbone; // [rows, n] T; nullptr: no row is on it
    void const* river;    // [rows, n] T; nullptr: no row is on it
};

template <typename T>
__global__ void __launch_bounds__(kPrefillThreads)
    epilogue_kernel(__grid_constant__ EpilogueArgs const args)
{
    LinearParams const& p = args.p;
    wait_for_predecessor();
    let_successor_start();
    int const width = p.silu_mul ? p.n / 2 : p.n;
    int64_t const i = static_cast<int64_t>(blockIdx.x) * kPrefillThreads + threadIdx.x;
    if (i >= static_cast<int64_t>(p.rows) * width)
        return;
    int const row = static_cast<int>(i / width);
    int const n = static_cast<int>(i % width);
    bool const on_river = args.backbone == nullptr
        || (args.river != nullptr && load_flag(p.use_river, p.flag_type, row));
    void const* const bank = on_river ? args.river : args.backbone;
    auto const value_of = [&](int output)
    {
        float const bias = p.bias == nullptr ? 0.F : Numeric<T>::load(p.bias, output);
        return bias + Numeric<T>::load(bank, static_cast<size_t>(row) * p.n + output);
    };
    float value = value_of(n);
    if (p.silu_mul)
        value = value / (1.F + __expf(-value)) * value_of(n + width);
    else if (p.residual != nullptr)
        value += Numeric<T>::load(p.residual, i);
    Numeric<T>::store(p.y, i, value);
}
} // namespace river
