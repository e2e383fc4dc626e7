// The river's decode product over a packed bank (packed.h): up to 8 rows of x.
//
// A block owns some tiles and all of k; its warps share the tiles' panels evenly, each a contiguous
// run of memory that it streams through a ring of its own. No warp waits for another before the
// end, where the parts of a tile meet in shared memory, in a fixed order.
//
// Scale and zero point come in once a panel. The tensor core's 8 columns are kRows rows of x times
// 8 / kRows chunks: column c holds row c / kSpan, chunk c % kSpan of a span of kSpan chunks, zero in
// all other chunks. So c[] keeps the chunks apart, and their scales are applied by a lane for its
// own columns, after kSpan chunks:
//
//     x (1 row):   column 0  1  2 ...      c[16][8] = 16 outputs x 8 chunks
//       chunk 0           x  .  .          y += sum over columns of scale * (c - zero * sum x)
//       chunk 1           .  x  .
//
// kInt8: x is rounded to 8 bits, one scale a chunk and row, and the codes are multiplied as they are.
// Otherwise codes are 128 + code in bf16 (1024 + code in fp16), exact, and x is T.
#pragma once

#include "mma.cuh"
#include "packed.h"

namespace river
{
struct DecodeParams
{
    LinearParams p;
    void const* packed;
    int units;           // tiles of y: with silu_mul, pairs of tiles
    int units_per_block;
    int panels; // of a tile
    int x_stride; // bytes of a row of x in shared memory
    bool early; // the first weights may be loaded before the predecessor ends
};

constexpr int kRing = kChunkBytes; // bytes of a slot of the ring

// What a warp reads: the panels of its items, item = local tile * panels + panel, piece by piece
// (the scales, then each chunk), kDepth pieces ahead. A lane copies what it alone reads.
template <int kDepth>
struct PieceStream
{
    char* ring; // of this lane
    char const* at;
    PackedShape shape;
    int panel, tile, items_left, piece, pieces;
    int read, write;
    DecodeParams const* d;

    __device__ __forceinline__ void open()
    {
        LinearParams const& p = d->p;
        int const unit0 = blockIdx.x * d->units_per_block;
        int const global = p.silu_mul ? unit0 + tile / 2 + (tile % 2) * d->units : unit0 + tile;
        at = static_cast<char const*>(d->packed) + global * shape.tile_bytes()
            + static_cast<int64_t>(panel) * shape.panel_bytes();
        piece = 0;
        pieces = 1 + min(kPanelChunks, shape.chunks() - panel * kPanelChunks);
    }
    __device__ __forceinline__ void issue()
    {
        int const lane = threadIdx.x % kWarpSize;
        if (items_left > 0)
        {
            if (piece == 0 && shape.group_size == 128)
            {
                copy_async<8>(ring + write * kRing, at + 8 * lane);
                at += 256;
            }
            else
            {
                copy_async<16>(ring + write * kRing, at + 16 * lane);
                at += kChunkBytes;
            }
            if (++piece == pieces)
            {
                if (++panel == d->panels)
                {
                    panel = 0;
                    ++tile;
                }
                if (--items_left > 0)
                    open();
            }
        }
        commit_copies();
        write = write + 1 == kDepth ? 0 : write + 1;
    }
    __device__ __forceinline__ void start(DecodeParams const& params, char* warp_ring, int first, int last)
    {
        d = &params;
        shape = PackedShape{params.p.n, params.p.k, params.p.river.group_size};
        ring = warp_ring + 16 * (threadIdx.x % kWarpSize);
        tile = first / params.panels;
        panel = first % params.panels;
        items_left = last - first;
        read = write = 0;
        if (items_left > 0)
            open();
#pragma unroll 1
        for (int i = 0; i < kDepth - 1; ++i)
            issue();
    }
    __device__ __forceinline__ uint4 next()
    {
        wait_copies<kDepth - 2>();
        uint4 const value = load16(ring + read * kRing);
        read = read + 1 == kDepth ? 0 : read + 1;
        issue();
        return value;
    }
};

// One row of x in shared memory: values, and for each chunk (scale, sum).
template <typename T, bool kInt8>
__device__ __forceinline__ void fill_x(DecodeParams const& d, int row0, int rows, char* xs, float2* info, float* scratch)
{
    LinearParams const& p = d.p;
    int const chunks = (p.k + kChunkColumns - 1) / kChunkColumns;
    int const vectors = chunks * 8;
    int const warps = blockDim.x / kWarpSize;
    if (p.norm_weight != nullptr)
    {
        for (int row = 0; row < rows; ++row)
        {
            float sum = 0.F;
            for (int i = threadIdx.x; 8 * i < p.k; i += blockDim.x)
            {
                float values[8];
                unpack8<T>(
                    load16(at16(p.x, static_cast<size_t>(row0 + row) * p.k + 8 * i)), values);
#pragma unroll
                for (int j = 0; j < 8; ++j)
                    sum += values[j] * values[j];
            }
            sum = warp_sum(sum);
            if (threadIdx.x % kWarpSize == 0)
                scratch[row * warps + threadIdx.x / kWarpSize] = sum;
        }
        __syncthreads();
    }
    for (int row = 0; row < rows; ++row)
    {
        float rms = 1.F;
        if (p.norm_weight != nullptr)
        {
            float sum = 0.F;
            for (int w = 0; w < warps; ++w)
                sum += scratch[row * warps + w];
            rms = rsqrtf(sum / static_cast<float>(p.k) + p.norm_eps);
        }
        for (int base = 0; base < vectors; base += blockDim.x) // whole warps: they shuffle
        {
            int const i = base + threadIdx.x;
            int const at = 8 * i;
            float values[8] = {};
            if (at < p.k)
            {
                unpack8<T>(load16(at16(p.x, static_cast<size_t>(row0 + row) * p.k + at)), values);
                float factors[8];
                if (p.norm_weight != nullptr)
                {
                    unpack8<T>(load16(at16(p.norm_weight, at)), factors);
#pragma unroll
                    for (int j = 0; j < 8; ++j)
                        values[j] *= rms * factors[j];
                }
                if (p.river.pre_scale != nullptr)
                {
                    unpack8<__half>(load16(at16(p.river.pre_scale, at)), factors);
#pragma unroll
                    for (int j = 0; j < 8; ++j)
                        values[j] *= factors[j];
                }
            }
            float sum = 0.F;
            float scale = 1.F;
            if (kInt8)
            {
                float most = 0.F;
#pragma unroll
                for (int j = 0; j < 8; ++j)
                    most = fmaxf(most, fabsf(values[j]));
#pragma unroll
                for (int offset = 4; offset > 0; offset /= 2)
                    most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, offset));
                scale = most / 127.F;
                float const inverse = most > 0.F ? 127.F / most : 0.F;
                int q[8];
                int total = 0;
#pragma unroll
                for (int j = 0; j < 8; ++j)
                {
                    q[j] = __float2int_rn(values[j] * inverse);
                    total += q[j];
                }
                sum = static_cast<float>(total);
                uint32_t words[2]; // the order of the codes in a packed word
#pragma unroll
                for (int w = 0; w < 2; ++w)
                    words[w] = (q[4 * w] & 255) | (q[4 * w + 2] & 255) << 8 | (q[4 * w + 1] & 255) << 16
                        | static_cast<uint32_t>(q[4 * w + 3]) << 24;
                if (i < vectors)
                    store8(xs + row * d.x_stride + 8 * i, make_uint2(words[0], words[1]));
            }
            else
            {
                uint4 const packed = pack8<T>(values);
                unpack8<T>(packed, values);
#pragma unroll
                for (int j = 0; j < 8; ++j)
                    sum += values[j];
                if (i < vectors)
                    store16(xs + row * d.x_stride + 16 * i, packed);
            }
            sum = warp_sum<8>(sum);
            if (threadIdx.x % 8 == 0 && i < vectors)
                info[row * chunks + i / 8] = make_float2(scale, sum);
        }
    }
}

constexpr uint32_t kIntegerMagic = 0x4b400000U; // + an integer below 2 ** 22: the bits of a float
constexpr float kIntegerMagicValue = 12582912.F;

// c of one span of chunks.
template <typename T, bool kInt8>
struct Accumulator
{
    static constexpr float kOffset = kInt8 ? kIntegerMagicValue : 0.F;
    int32_t integers[4];
    float floats[4];

    __device__ __forceinline__ void clear()
    {
#pragma unroll
        for (int i = 0; i < 4; ++i)
        {
            integers[i] = static_cast<int32_t>(kIntegerMagic);
            floats[i] = 0.F;
        }
    }
    __device__ __forceinline__ void multiply(uint4 const& q, char const* x)
    {
        uint32_t const words[4] = {q.x, q.y, q.z, q.w};
        if constexpr (kInt8)
        {
            uint4 const b = load16(x);
            constexpr uint32_t kLow = 0x0f0f0f0fU, kHigh = 0xf0f0f0f0U;
            uint32_t const first[4] = {q.x & kLow, q.x & kHigh, q.y & kLow, q.y & kHigh};
            uint32_t const second[4] = {q.z & kLow, q.z & kHigh, q.w & kLow, q.w & kHigh};
            mma_16x8x32_u8_s8(integers, first, b.x, b.y);
            mma_16x8x32_u8_s8(integers, second, b.z, b.w);
        }
        else
        {
            uint4 const b0 = load16(x);
            uint4 const b1 = load16(x + 16);
            uint32_t const b[8] = {b0.x, b0.y, b0.z, b0.w, b1.x, b1.y, b1.z, b1.w};
            constexpr uint32_t kMask = 0x000f000fU, kMagic = Numeric<T>::kMagic;
#pragma unroll
            for (int s = 0; s < 4; ++s)
            {
                uint32_t const w = words[s];
                uint32_t const a[4] = {(w & kMask) | kMagic, (w >> 4 & kMask) | kMagic,
                    (w >> 8 & kMask) | kMagic, (w >> 12 & kMask) | kMagic};
                mma_16x8x16<T>(floats, a, b[2 * s], b[2 * s + 1]);
            }
        }
    }
    // scale * (sum of code * x - zero * sum x) of element i, whose column of x has `info`
    __device__ __forceinline__ float value(int i, uint32_t scale_and_zero, float2 info) const
    {
        float2 const sz = Numeric<__half>::unpack(scale_and_zero);
        if constexpr (kInt8)
        {
            float const sixteen = i < 2 ? 1.F : 16.F; // the high nibbles were not shifted
            float const whole = bits<float>(integers[i]) - fmaf(sixteen * sz.y, info.y, kIntegerMagicValue);
            return whole * (sz.x * info.x) * (i < 2 ? 1.F : 0.0625F);
        }
        else
            return sz.x * fmaf(-(Numeric<T>::kMagicValue + sz.y), info.y, floats[i]);
    }
};

template <typename T, int kRows, bool kInt8, int kDepth, int kThreads, int kBlocks>
__global__ void __launch_bounds__(kThreads, kBlocks) decode_kernel(__grid_constant__ DecodeParams const d)
{
    constexpr int kSpan = 8 / kRows;
    constexpr int kSums = kRows == 8 ? 4 : 2; // outputs g and g + 8, of one row or of two
    RIVER_DYNAMIC_SHARED(memory);
    LinearParams const& p = d.p;
    int const warps = blockDim.x / kWarpSize;
    int const lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
    int const g = lane / 4, t = lane % 4;
    int const row0 = blockIdx.y * kRows;
    int const rows = min(kRows, p.rows - row0);
    int const unit0 = blockIdx.x * d.units_per_block;
    int const units = min(d.units_per_block, d.units - unit0);
    int const tiles = p.silu_mul ? 2 * units : units;
    int const items = tiles * d.panels;
    int const chunks = (p.k + kChunkColumns - 1) / kChunkColumns;
    char* const base = reinterpret_cast<char*>(memory);
    char* const ring = base + warp * kDepth * kRing;
    char* const xs = base + warps * kDepth * kRing;
    char* const zeros = xs + kRows * d.x_stride; // 64 bytes
    float2* const info = reinterpret_cast<float2*>(zeros + 64);
    float* const slots = reinterpret_cast<float*>(info + kRows * chunks); // [tiles + warps][16][kRows]
    auto const begin_of = [&](int w) { return items * w / warps; };

    int const first = begin_of(warp), last = begin_of(warp + 1);
    PieceStream<kDepth> stream;
    if (d.early)
        stream.start(d, ring, first, last);
    wait_for_predecessor();
    let_successor_start();
    if (!d.early)
        stream.start(d, ring, first, last);
    if (threadIdx.x < 16)
        reinterpret_cast<uint32_t*>(zeros)[threadIdx.x] = 0;
    fill_x<T, kInt8>(d, row0, rows, xs, info, slots);
    __syncthreads();

    int const row = g / kSpan;
    bool const active = row < rows;
    char const* const x_lane = xs + row * d.x_stride + (kInt8 ? 16 : 32) * t;
    constexpr int kChunkStep = kInt8 ? 64 : 128; // bytes of a chunk of a row of x
    int panel = first % d.panels;
    int tile = first / d.panels;
    float sums[kSums] = {};
#pragma unroll 1
    for (int item = first; item < last; ++item)
    {
        uint4 sz = stream.next();
        if (p.river.group_size == 128)
            sz = make_uint4(sz.x, sz.x, sz.y, sz.y);
        int const chunk0 = panel * kPanelChunks;
        int const count = min(kPanelChunks, chunks - chunk0);
#pragma unroll
        for (int span = 0; span < kRows; ++span)
        {
            Accumulator<T, kInt8> c;
            c.clear();
#pragma unroll
            for (int j = 0; j < kSpan; ++j)
            {
                int const chunk = span * kSpan + j;
                if (chunk < count)
                {
                    uint4 const q = stream.next();
                    bool const mine = active && g % kSpan == j;
                    c.multiply(q, mine ? x_lane + (chunk0 + chunk) * kChunkStep : zeros);
                }
            }
            // this lane's columns: 2t and 2t + 1
            int const chunk = span * kSpan + 2 * t % kSpan; // of the first
            uint32_t low[2] = {sz.x, sz.y}, high[2] = {sz.z, sz.w};
            if (kRows > 1)
            {
                int const source = lane / 4 * 4 + chunk / 2;
                low[0] = __shfl_sync(kAllLanes, kRows == 8 && span % 2 ? sz.y : sz.x, source);
                high[0] = __shfl_sync(kAllLanes, kRows == 8 && span % 2 ? sz.w : sz.z, source);
                low[1] = kRows == 8 ? low[0] : __shfl_sync(kAllLanes, sz.y, source);
                high[1] = kRows == 8 ? high[0] : __shfl_sync(kAllLanes, sz.w, source);
            }
#pragma unroll
            for (int column = 0; column < 2; ++column)
            {
                int const of_row = (2 * t + column) / kSpan;
                int const of_chunk = chunk + (kRows == 8 ? 0 : column);
                if (of_row < rows && of_chunk < count)
                {
                    float2 const about = info[of_row * chunks + chunk0 + of_chunk];
                    int const s = kRows == 8 ? column : 0;
                    sums[s] += c.value(column, low[column], about);
                    sums[s + kSums / 2] += c.value(2 + column, high[column], about);
                }
            }
        }
        if (++panel == d.panels || item + 1 == last)
        {
            // outputs of the tile, by row: lanes of a quad hold parts of the same row
            float* const slot = slots + (tile + warp) * (kPackedOutputs * kRows);
#pragma unroll
            for (int i = 0; i < kSums; ++i)
            {
                float sum = sums[i];
                sums[i] = 0.F;
                if (kRows <= 2)
                    sum += __shfl_xor_sync(kAllLanes, sum, 1);
                if (kRows == 1)
                    sum += __shfl_xor_sync(kAllLanes, sum, 2);
                int const output = g + 8 * (i / (kSums / 2));
                int const of_row = kRows == 8 ? 2 * t + i % 2 : t * kRows / 4;
                if (kRows >= 4 || t % max(1, 4 / kRows) == 0)
                    slot[output * kRows + of_row] = sum;
            }
            panel = 0;
            ++tile;
        }
    }
    wait_copies<0>();
    __syncthreads();

    int const width = p.silu_mul ? p.n / 2 : p.n;
    auto const total = [&](int local, int output, int of_row, int n)
    {
        float sum = p.bias == nullptr ? 0.F : Numeric<T>::load(p.bias, n);
        int const from = local * d.panels, to = from + d.panels - 1;
        for (int w = ((from + 1) * warps - 1) / items; w <= ((to + 1) * warps - 1) / items; ++w)
            if (begin_of(w) < begin_of(w + 1))
                sum += slots[((local + w) * kPackedOutputs + output) * kRows + of_row];
        return sum;
    };
    for (int i = threadIdx.x; i < units * kPackedOutputs * rows; i += blockDim.x)
    {
        int const output = i % kPackedOutputs, unit = i / kPackedOutputs % units;
        int const of_row = i / (kPackedOutputs * units);
        int const n = (unit0 + unit) * kPackedOutputs + output;
        if (n >= width)
            continue;
        size_t const at = static_cast<size_t>(row0 + of_row) * width + n;
        float value;
        if (p.silu_mul)
        {
            value = total(2 * unit, output, of_row, n);
            value = value / (1.F + __expf(-value)) * total(2 * unit + 1, output, of_row, n + width);
        }
        else
        {
            value = total(unit, output, of_row, n);
            if (p.residual != nullptr)
                value += Numeric<T>::load(p.residual, at);
        }
        Numeric<T>::store(p.y, at, value);
    }
}
} // namespace river
