// The decode kernel: up to 8 rows of x against one or both banks, reading each weight once.
//
// A block owns kTiles x 16 outputs and all of k. Its warps take turns along k; a warp's step is a
// 16 x 8 tensor core tile with weights as `a` and the rows of x as `b`. A lane loads 16 contiguous
// bytes of weights, its own share of the tile's k, so no weight passes through shared memory:
//
//   backbone, 32 k a load:  lane (g, t) has k = 8t  .. 8t + 7   of weight rows g and g + 8
//   river,   128 k a load:  lane (g, t) has k = 32t .. 32t + 31 of weight rows g and g + 8
//   x:                      lane (g, t) has the same k of row g of x, from L1 or L2
//
// Rows of x on the other bank are zeros in `b`, and their columns of `c` are thrown away.
#pragma once

#include "mma.cuh"

namespace river
{
constexpr int kLinearWarps = 8;
constexpr int kLinearThreads = kLinearWarps * kWarpSize;
constexpr int kTileOutputs = 16;

// What a lane knows about its row of x, and how it turns x into what a bank multiplies.
template <typename T, bool kNorm>
struct RowReader
{
    void const* x;         // [rows, k]
    void const* norm;      // [k]
    void const* pre_scale; // [k] fp16, or nullptr
    size_t offset;         // of the row
    int k;
    float rms;   // 1 / root mean square, where kNorm
    bool active; // the row exists and is on this bank

    __device__ __forceinline__ uint4 load8(int at) const
    {
        if (!active || at >= k)
            return make_uint4(0U, 0U, 0U, 0U);
        uint4 packed = load16(at16(x, offset + at));
        if (!kNorm && pre_scale == nullptr)
            return packed;
        float values[8];
        unpack8<T>(packed, values);
        float factors[8];
        if (kNorm)
        {
            unpack8<T>(load16(at16(norm, at)), factors);
#pragma unroll
            for (int i = 0; i < 8; ++i)
                values[i] *= rms * factors[i];
        }
        if (pre_scale != nullptr)
        {
            unpack8<__half>(load16(at16(pre_scale, at)), factors);
#pragma unroll
            for (int i = 0; i < 8; ++i)
                values[i] *= factors[i];
        }
        return pack8<T>(values);
    }
};

// The backbone's part of a lane: kChunks loads of 32 k for two weight rows of each tile.
template <typename T, int kTiles>
struct BackboneStep
{
    static constexpr int kChunks = 4 / kTiles; // so that a step is 8 loads a lane
    static constexpr int kColumns = 32 * kChunks;
    uint4 weight[kTiles][2][kChunks];

    __device__ __forceinline__ void load(
        LinearParams const& p, int const (&outputs)[kTiles][2], int k0, int t)
    {
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
            for (int half = 0; half < 2; ++half)
#pragma unroll
                for (int chunk = 0; chunk < kChunks; ++chunk)
                {
                    int const at = k0 + 32 * chunk + 8 * t;
                    int const n = outputs[tile][half];
                    weight[tile][half][chunk] = n >= 0 && at < p.k
                        ? load_stream(at16(p.weight, static_cast<size_t>(n) * p.k + at))
                        : make_uint4(0U, 0U, 0U, 0U);
                }
    }

    template <typename Reader>
    __device__ __forceinline__ void multiply(
        LinearParams const&, Reader const& reader, int k0, int t, float (&sums)[kTiles][4]) const
    {
#pragma unroll
        for (int chunk = 0; chunk < kChunks; ++chunk)
        {
            uint4 const x = reader.load8(k0 + 32 * chunk + 8 * t);
#pragma unroll
            for (int tile = 0; tile < kTiles; ++tile)
            {
                uint4 const low = weight[tile][0][chunk];
                uint4 const high = weight[tile][1][chunk];
                uint32_t const first[4] = {low.x, high.x, low.y, high.y};
                uint32_t const second[4] = {low.z, high.z, low.w, high.w};
                mma_16x8x16<T>(sums[tile], first, x.x, x.y);
                mma_16x8x16<T>(sums[tile], second, x.z, x.w);
            }
        }
    }
};

__host__ __device__ constexpr int groups_of(int k, int group_size)
{
    return (k + group_size - 1) / group_size;
}

// Codes e and e + 4 of a word of eight, as (code - zero) * scale.
template <typename T>
__device__ __forceinline__ uint32_t dequantise_pair(
    uint32_t word, int e, typename Numeric<T>::Pair zero, typename Numeric<T>::Pair scale)
{
    using Pair = typename Numeric<T>::Pair;
    uint32_t const code = ((word >> (4 * e)) & 0x000f000fU) | Numeric<T>::kMagic;
    return bits<uint32_t>(__hmul2(__hsub2(bits<Pair>(code), zero), scale));
}

// The river's part of a lane: kChunks loads of 128 k (32 a lane, so within one group).
template <typename T, int kTiles>
struct RiverStep
{
    static constexpr int kChunks = 2 / kTiles;
    static constexpr int kColumns = 128 * kChunks;
    uint4 codes[kTiles][2][kChunks];
    float scale[kTiles][2][kChunks];
    float zero[kTiles][2][kChunks];

    __device__ __forceinline__ void load(
        LinearParams const& p, int const (&outputs)[kTiles][2], int k0, int t)
    {
        RiverBank const& river = p.river;
        int const groups = groups_of(p.k, river.group_size);
        size_t const row_bytes = static_cast<size_t>(groups) * river.group_size / 2;
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
            for (int half = 0; half < 2; ++half)
#pragma unroll
                for (int chunk = 0; chunk < kChunks; ++chunk)
                {
                    int const at = k0 + 128 * chunk + 32 * t;
                    int const n = outputs[tile][half];
                    bool const valid = n >= 0 && at < p.k;
                    codes[tile][half][chunk] = make_uint4(0U, 0U, 0U, 0U);
                    scale[tile][half][chunk] = 0.F;
                    zero[tile][half][chunk] = 8.F;
                    if (!valid)
                        continue;
                    codes[tile][half][chunk] = load_stream(
                        static_cast<char const*>(river.qweight) + n * row_bytes + at / 2);
                    size_t const group = static_cast<size_t>(n) * groups + at / river.group_size;
                    scale[tile][half][chunk] = Numeric<__half>::load(river.scales, group);
                    if (river.zero_points != nullptr)
                        zero[tile][half][chunk] =
                            static_cast<uint8_t const*>(river.zero_points)[group];
                }
    }

    template <typename Reader>
    __device__ __forceinline__ void multiply(
        LinearParams const&, Reader const& reader, int k0, int t, float (&sums)[kTiles][4]) const
    {
#pragma unroll
        for (int chunk = 0; chunk < kChunks; ++chunk)
#pragma unroll
            for (int word = 0; word < 4; ++word)
            {
                uint4 const x = reader.load8(k0 + 128 * chunk + 32 * t + 8 * word);
                // x in the order in which codes come out of a word: 0 4, 1 5, 2 6, 3 7.
                uint32_t const b[4] = {__byte_perm(x.x, x.z, 0x5410), __byte_perm(x.x, x.z, 0x7632),
                    __byte_perm(x.y, x.w, 0x5410), __byte_perm(x.y, x.w, 0x7632)};
#pragma unroll
                for (int tile = 0; tile < kTiles; ++tile)
                {
                    uint32_t a[2][4]; // [half of the word's codes][fragment]
#pragma unroll
                    for (int half = 0; half < 2; ++half)
                    {
                        uint4 const& row = codes[tile][half][chunk];
                        uint32_t const words[4] = {row.x, row.y, row.z, row.w};
                        auto const zeros =
                            Numeric<T>::both(Numeric<T>::kMagicValue + zero[tile][half][chunk]);
                        auto const scales = Numeric<T>::both(scale[tile][half][chunk]);
#pragma unroll
                        for (int e = 0; e < 4; ++e)
                            a[e / 2][half + 2 * (e % 2)] =
                                dequantise_pair<T>(words[word], e, zeros, scales);
                    }
                    mma_16x8x16<T>(sums[tile], a[0], b[0], b[1]);
                    mma_16x8x16<T>(sums[tile], a[1], b[2], b[3]);
                }
            }
    }
};

using LinearSums = float[kLinearWarps][2 * kTileOutputs][kDecodeRows];

// 1 / root mean square of every row of x, by the whole block.
template <typename T>
__device__ __forceinline__ void measure_rows(
    LinearParams const& p, int row0, int rows, float (&rms)[kDecodeRows], LinearSums& scratch)
{
    int const warp = threadIdx.x / kWarpSize;
    for (int row = 0; row < rows; ++row)
    {
        float sum = 0.F;
        for (int at = 8 * threadIdx.x; at < p.k; at += 8 * kLinearThreads)
        {
            float values[8];
            unpack8<T>(load16(at16(p.x, static_cast<size_t>(row0 + row) * p.k + at)), values);
#pragma unroll
            for (int i = 0; i < 8; ++i)
                sum += values[i] * values[i];
        }
        sum = warp_sum(sum);
        if (threadIdx.x % kWarpSize == 0)
            scratch[warp][0][row] = sum;
    }
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < rows)
    {
        float sum = 0.F;
        for (int w = 0; w < kLinearWarps; ++w)
            sum += scratch[w][0][threadIdx.x];
        rms[threadIdx.x] = rsqrtf(sum / static_cast<float>(p.k) + p.norm_eps);
    }
    __syncthreads();
}

// One bank over all of k; leaves every warp's sums of the bank's rows in `sums`. The first weights
// are under way before `rms` is computed, which needs the whole row of x.
template <typename Step, typename T, int kTiles, bool kNorm>
__device__ __forceinline__ void run_bank(LinearParams const& p, int const (&outputs)[kTiles][2],
    int row0, int rows, uint32_t rows_of_bank, void const* pre_scale, bool& measured,
    float (&rms)[kDecodeRows], LinearSums& sums)
{
    int const warp = threadIdx.x / kWarpSize;
    int const g = threadIdx.x % kWarpSize / 4;
    int const t = threadIdx.x % 4;
    constexpr int kStride = Step::kColumns * kLinearWarps;

    int k0 = warp * Step::kColumns;
    Step now;
    now.load(p, outputs, k0, t);
    if (kNorm && !measured)
        measure_rows<T>(p, row0, rows, rms, sums);
    measured = true;

    RowReader<T, kNorm> reader{p.x, p.norm_weight, pre_scale, static_cast<size_t>(row0 + g) * p.k,
        p.k, 0.F, (rows_of_bank >> g & 1U) != 0};
    if (kNorm && reader.active)
        reader.rms = rms[g];
    float c[kTiles][4] = {};
    while (k0 < p.k)
    {
        Step next;
        next.load(p, outputs, k0 + kStride, t);
        now.multiply(p, reader, k0, t, c);
        now = next;
        k0 += kStride;
    }
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
        for (int i = 0; i < 4; ++i)
        {
            int const row = 2 * t + i % 2;
            if (rows_of_bank >> row & 1U)
                sums[warp][tile * kTileOutputs + g + 8 * (i / 2)][row] = c[tile][i];
        }
}

// kTiles 2 with silu_mul: the second tile is the `up` half of the same outputs.
template <typename T, int kTiles, bool kNorm>
__global__ void __launch_bounds__(kLinearThreads, 2)
    linear_kernel(__grid_constant__ LinearParams const p)
{
    RIVER_SHARED(sums, LinearSums);
    RIVER_SHARED(rms, float[kDecodeRows]);
    wait_for_predecessor();
    let_successor_start();

    int const row0 = blockIdx.y * kDecodeRows;
    int const rows = min(kDecodeRows, p.rows - row0);
    int const lane = threadIdx.x % kWarpSize;
    int const width = p.silu_mul ? p.n / 2 : p.n; // of y
    int const block_outputs = p.silu_mul ? kTileOutputs : kTiles * kTileOutputs;
    int const n0 = blockIdx.x * block_outputs;

    int outputs[kTiles][2]; // this lane's weight rows; -1 beyond the end
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
        for (int half = 0; half < 2; ++half)
        {
            int const local = n0 + lane / 4 + 8 * half + (p.silu_mul ? 0 : tile * kTileOutputs);
            outputs[tile][half] = local >= width ? -1 : local + (p.silu_mul ? tile * width : 0);
        }

    uint32_t const all_rows = (1U << rows) - 1U;
    bool const flag = p.banks == Banks::kByFlag && lane < rows
        && load_flag(p.use_river, p.flag_type, row0 + lane);
    uint32_t const on_river = p.banks == Banks::kRiver ? all_rows : __ballot_sync(kAllLanes, flag);
    bool measured = false;
    if (on_river != all_rows)
        run_bank<BackboneStep<T, kTiles>, T, kTiles, kNorm>(
            p, outputs, row0, rows, all_rows & ~on_river, nullptr, measured, rms, sums);
    if (on_river != 0)
        run_bank<RiverStep<T, kTiles>, T, kTiles, kNorm>(
            p, outputs, row0, rows, on_river, p.river.pre_scale, measured, rms, sums);
    __syncthreads();

    auto const total = [&](int local, int row, int n)
    {
        float sum = p.bias == nullptr ? 0.F : Numeric<T>::load(p.bias, n);
        for (int warp = 0; warp < kLinearWarps; ++warp)
            sum += sums[warp][local][row];
        return sum;
    };
    for (int i = threadIdx.x; i < block_outputs * rows; i += kLinearThreads)
    {
        int const local = i % block_outputs;
        int const row = i / block_outputs;
        int const n = n0 + local;
        if (n >= width)
            continue;
        size_t const at = static_cast<size_t>(row0 + row) * width + n;
        float value = total(local, row, n);
        if (kTiles == 2 && p.silu_mul)
            value = value / (1.F + __expf(-value)) * total(local + kTileOutputs, row, n + width);
        else if (p.residual != nullptr)
            value += Numeric<T>::load(p.residual, at);
        Numeric<T>::store(p.y, at, value);
    }
}
} // namespace river
