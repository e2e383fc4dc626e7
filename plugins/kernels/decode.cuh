// The decode product over a packed river bank (packed.h) and the plain backbone: up to 8 rows of x.
//
// A block owns some tiles of 16 outputs and all of k; its warps share the tiles' panels evenly. A
// panel (8 chunks of 64 k of the river, 128 k of the backbone) comes in pieces of 16 bytes a lane,
// which each lane copies in the background to shared memory that it alone reads: a ring of a warp's
// own, kAhead panels deep. So nobody waits for another warp before the end, where the parts of a
// tile meet in shared memory, in a fixed order.
//
//   warp 0:  tile 0, panels 0 1 2 3 4 5       its sums of tile 0 -> slot 0
//   warp 1:  tile 0, panels 6 7; tile 1, ...  -> slot 1, slot 2         (slot = tile + warp)
//
// The river's scales and zero points come in once a panel. The tensor core's 8 columns are kRows rows
// of x times kSpan = 8 / kRows chunks: column c holds row c / kSpan in chunk c % kSpan of a span and
// zeros in the others, so the sums of the chunks stay apart, and a lane scales its own columns:
//
//   1 row:   column 0  1  2 ..     c[16][8] = 16 outputs x 8 chunks
//   chunk 0         x  0  0        y += sum over columns of scale * (c - zero * sum of x)
//   chunk 1         0  x  0
//
// kInt8: x is rounded to 8 bits with a scale for each chunk and row, and codes are multiplied as they
// are. Otherwise a code is the number kMagicValue + code of T, exactly, and x is T.
#pragma once

#include "mma.cuh"
#include "packed.h"

namespace river
{
// At most so many threads, so that a block leaves half an SM's registers to the next kernel: it then
// fills its rings while this one ends.
RIVER_EVERYWHERE constexpr int decode_threads(int rows, int ahead)
{
    return ahead > 1 ? 256 : rows > 1 ? 384 : 512;
}
constexpr int kPieceBytes = 16 * kWarpSize;

struct DecodeParams
{
    LinearParams p;
    int units; // tiles of y; with silu_mul a unit is a tile of `gate` and the same of `up`
    int units_per_block;
    // Contiguous: block b has neighbouring units, and a warp has neighbouring panels: `share` of
    // them. Interleaved: block b has units b, b + grid, ..., a warp every warps-th panel, so that all
    // warps of the device read places near each other.
    bool interleaved;
    int river_share, backbone_share; // panels of a warp, each bank's own
    bool x_in_shared;                // else the backbone reads x where it lies
};

__host__ __device__ constexpr int chunks_of(int k)
{
    return (k + kChunkColumns - 1) / kChunkColumns;
}
// Bytes of a row of x in shared memory; the odd part puts rows on other banks.
__host__ __device__ constexpr int backbone_x_stride(int k)
{
    return 2 * kChunkColumns * chunks_of(k) + 64;
}
__host__ __device__ constexpr int river_x_stride(int k, bool int8)
{
    return int8 ? (kChunkColumns * chunks_of(k) + 127) / 128 * 128 + 64
                : 2 * kChunkColumns * chunks_of(k) + 16;
}

// What a block works on and where its parts of shared memory lie.
struct DecodeBlock
{
    int warps, unit0, unit_step, units, tiles;
    int row0, rows;
    char *ring, *zeros, *xs; // this lane's of its warp's ring; 64 bytes of zeros; x
    float2* info;            // [kRows][chunks] scale and sum of x
    float* slots;            // [slot][16][kRows]

    __device__ __forceinline__ int unit(int local) const
    {
        return unit0 + local * unit_step;
    }
};

// The weights of the panel that a warp loads next, as one of its lanes sees them.
struct Cursor
{
    char const* at; // of the lane's first bytes
    int64_t other;  // backbone: from output g to output g + 8, in bytes
    int valid;      // river: chunks of the panel; backbone: columns from the lane's first to k
    int tile, panel;
    int left; // panels to load; none: valid is 0
};

struct RiverBankPath
{
    static constexpr int kPieces = 1 + kPanelChunks;

    __device__ __forceinline__ static int panels(DecodeParams const& d)
    {
        return (chunks_of(d.p.k) + kPanelChunks - 1) / kPanelChunks;
    }
    __device__ __forceinline__ static int share(DecodeParams const& d)
    {
        return d.river_share;
    }
    __device__ __forceinline__ static void open(
        DecodeParams const& d, DecodeBlock const& b, Cursor& c)
    {
        LinearParams const& p = d.p;
        PackedShape const shape{p.n, p.k, p.river.group_size};
        int const tile = p.silu_mul ? b.unit(c.tile / 2) + c.tile % 2 * d.units : b.unit(c.tile);
        c.at = static_cast<char const*>(p.river.packed) + tile * shape.tile_bytes()
            + static_cast<int64_t>(c.panel) * shape.panel_bytes() + shape.scale_bytes()
            + 16 * (threadIdx.x % kWarpSize); // in chunk 0, behind the scales
        c.valid = min(kPanelChunks, shape.chunks() - c.panel * kPanelChunks);
    }
    __device__ __forceinline__ static void load(
        DecodeParams const& d, Cursor const& c, char* slot, int piece)
    {
        if (piece > 0)
        {
            if (piece <= c.valid)
                copy_async<16>(slot, c.at + (piece - 1) * kChunkBytes);
        }
        else if (c.valid > 0)
        {
            if (d.p.river.group_size == 64)
                copy_async<16>(slot, c.at - 512);
            else
                copy_async<8>(slot, c.at - 256 - 8 * (threadIdx.x % kWarpSize));
        }
    }
};

struct BackboneBankPath
{
    static constexpr int kPieces = 8;    // 4 times 32 columns, of outputs g and of outputs g + 8
    static constexpr int kColumns = 128; // of a panel

    __device__ __forceinline__ static int panels(DecodeParams const& d)
    {
        return (d.p.k + kColumns - 1) / kColumns;
    }
    __device__ __forceinline__ static int share(DecodeParams const& d)
    {
        return d.backbone_share;
    }
    // Outputs beyond the last are read from the last one: their sums are thrown away.
    __device__ __forceinline__ static void open(
        DecodeParams const& d, DecodeBlock const& b, Cursor& c)
    {
        LinearParams const& p = d.p;
        int const lane = threadIdx.x % kWarpSize;
        int const width = p.silu_mul ? p.n / 2 : p.n;
        int const unit = b.unit(p.silu_mul ? c.tile / 2 : c.tile);
        int const low = min(unit * kPackedOutputs + lane / 4, width - 1);
        int const high = min(unit * kPackedOutputs + lane / 4 + 8, width - 1);
        int const half = p.silu_mul ? c.tile % 2 * width : 0;
        int const column = c.panel * kColumns + 8 * (lane % 4);
        c.at = at16(p.weight, static_cast<size_t>(half + low) * p.k + column);
        c.other = 2LL * (high - low) * p.k;
        c.valid = p.k - column;
    }
    __device__ __forceinline__ static void load(
        DecodeParams const& d, Cursor const& c, char* slot, int piece)
    {
        if (c.left < 1)
            return;
        int64_t const offset = (piece % 2 != 0 ? c.other : 0) + 64 * (piece / 2);
        bool const valid = 32 * (piece / 2) < c.valid; // else zeros: beyond k
        copy_async_or_zero(
            slot, valid ? c.at + offset : static_cast<char const*>(d.p.weight), valid);
    }
};

// Panels from one of a warp's to its next.
__device__ __forceinline__ int step_of(DecodeParams const& d, DecodeBlock const& b)
{
    return d.interleaved ? b.warps : 1;
}

// Moves on to the warp's next panel.
template <typename Bank>
__device__ __forceinline__ void advance(DecodeParams const& d, DecodeBlock const& b, Cursor& c)
{
    int const panels = Bank::panels(d);
    for (c.panel += step_of(d, b); c.panel >= panels; c.panel -= panels)
        ++c.tile;
    c.valid = 0;
    if (--c.left > 0)
        Bank::open(d, b, c);
}

// The first panel of a warp, as tile * panels + panel, and how many it has.
struct Share
{
    int first, count;
};
template <typename Bank>
__device__ __forceinline__ Share share_of(DecodeParams const& d, DecodeBlock const& b)
{
    int const warp = threadIdx.x / kWarpSize;
    int const all = b.tiles * Bank::panels(d);
    if (d.interleaved)
        return {warp, max(0, all - warp + b.warps - 1) / b.warps};
    int const first = min(warp * Bank::share(d), all);
    return {first, min(Bank::share(d), all - first)};
}

// Where a warp leaves its part of a tile. Contiguous shares that grow with the warp: no two alike.
__device__ __forceinline__ int slot_of(
    DecodeParams const& d, DecodeBlock const& b, int tile, int warp)
{
    return d.interleaved ? tile * b.warps + warp : tile + warp;
}

// At panel `skipped` of this warp's share.
template <typename Bank>
__device__ __forceinline__ Cursor open_share(
    DecodeParams const& d, DecodeBlock const& b, int skipped)
{
    Share const share = share_of<Bank>(d, b);
    int const first = share.first + skipped * step_of(d, b);
    Cursor c;
    c.left = share.count - skipped;
    c.tile = first / Bank::panels(d);
    c.panel = first % Bank::panels(d);
    c.valid = 0;
    if (c.left > 0)
        Bank::open(d, b, c);
    return c;
}

// The first kAhead panels of this warp.
template <typename Bank, int kAhead>
__device__ __forceinline__ void start(DecodeParams const& d, DecodeBlock const& b)
{
    Cursor c = open_share<Bank>(d, b, 0);
#pragma unroll
    for (int ahead = 0; ahead < kAhead; ++ahead)
    {
#pragma unroll
        for (int piece = 0; piece < Bank::kPieces; ++piece)
        {
            Bank::load(d, c, b.ring + (ahead * Bank::kPieces + piece) * kPieceBytes, piece);
            commit_copies();
        }
        advance<Bank>(d, b, c);
    }
}

// This lane's 16 bytes of a piece; the same piece, kAhead panels on, is then on its way.
template <typename Bank, int kAhead>
__device__ __forceinline__ uint4 take(
    DecodeParams const& d, Cursor const& c, char* slots, int piece)
{
    char* const slot = slots + piece * kPieceBytes;
    wait_copies<kAhead * Bank::kPieces - 1>();
    uint4 const value = load16(slot);
    Bank::load(d, c, slot, piece);
    commit_copies();
    return value;
}

// Eight values of row `row`, ready to multiply but for the rounding.
template <typename T>
__device__ __forceinline__ void prepare8(
    LinearParams const& p, uint4 const& packed, int at, float rms, bool river, float (&values)[8])
{
    unpack8<T>(packed, values);
    float factors[8];
    if (p.norm_weight != nullptr)
    {
        unpack8<T>(load16(at16(p.norm_weight, at)), factors);
#pragma unroll
        for (int j = 0; j < 8; ++j)
            values[j] *= rms * factors[j];
    }
    if (river && p.river.pre_scale != nullptr)
    {
        unpack8<__half>(load16(at16(p.river.pre_scale, at)), factors);
#pragma unroll
        for (int j = 0; j < 8; ++j)
            values[j] *= factors[j];
    }
}

// 1 / root mean square of each row, in the block's shared memory; ends with a barrier.
template <typename T>
__device__ __forceinline__ void measure(DecodeParams const& d, DecodeBlock const& b, float* rms)
{
    LinearParams const& p = d.p;
    int const lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
    if (p.sum_squares != nullptr)
    {
        for (int row = warp; row < b.rows; row += b.warps)
        {
            float const* const parts =
                p.sum_squares + static_cast<size_t>(b.row0 + row) * p.sum_squares_parts;
            float sum = 0.F;
            for (int i = lane; i < p.sum_squares_parts; i += kWarpSize)
                sum += parts[i];
            sum = warp_sum(sum);
            if (lane == 0)
                rms[row] = rsqrtf(sum / static_cast<float>(p.k) + p.norm_eps);
        }
        __syncthreads();
        return;
    }
    // Every row has warps of its own where there are enough, and 4 loads of a lane are under way.
    int const team = max(1, b.warps / b.rows);
    float* const parts = b.slots; // [rows][team], not in use yet
    for (int row = warp / team; row < b.rows; row += b.warps / team)
    {
        float sum = 0.F;
#pragma unroll 4
        for (int at = 8 * (warp % team * kWarpSize + lane); at < p.k; at += 8 * team * kWarpSize)
        {
            float values[8];
            unpack8<T>(load16(at16(p.x, static_cast<size_t>(b.row0 + row) * p.k + at)), values);
#pragma unroll
            for (int j = 0; j < 8; ++j)
                sum += values[j] * values[j];
        }
        sum = warp_sum(sum);
        if (lane == 0)
            parts[row * team + warp % team] = sum;
    }
    __syncthreads();
    for (int row = threadIdx.x; row < b.rows; row += blockDim.x)
    {
        float sum = 0.F;
        for (int w = 0; w < team; ++w)
            sum += parts[row * team + w];
        rms[row] = rsqrtf(sum / static_cast<float>(p.k) + p.norm_eps);
    }
    __syncthreads();
}

constexpr uint32_t kIntegerMagic = 0x4b400000U; // plus an integer below 2^22: the bits of a float
constexpr float kIntegerMagicValue = 12582912.F;

// The 8 values to 8 bits: a scale for the 8 lanes that share a chunk. Returns the codes in the order
// of a packed word (0 2 1 3) and the lanes' (scale, sum). Rounded by an addition, since a conversion
// takes a GPU as long as eight of them.
__device__ __forceinline__ uint2 quantise8(float const (&values)[8], float2& about)
{
    float most = 0.F;
#pragma unroll
    for (int j = 0; j < 8; ++j)
        most = fmaxf(most, fabsf(values[j]));
#pragma unroll
    for (int offset = 4; offset > 0; offset /= 2)
        most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, offset));
    float const inverse = most > 0.F ? divide_fast(127.F, most) : 0.F;
    uint32_t codes[8]; // in the lowest byte
#pragma unroll
    for (int j = 0; j < 8; ++j)
        codes[j] = bits<uint32_t>(values[j] * inverse + kIntegerMagicValue);
    auto const word = [&](int j)
    {
        return __byte_perm(__byte_perm(codes[j], codes[j + 2], 0x0040),
            __byte_perm(codes[j + 1], codes[j + 3], 0x0040), 0x5410);
    };
    uint2 const words = make_uint2(word(0), word(4));
    constexpr int kOnes = 0x01010101;
    int const total =
        __dp4a(static_cast<int>(words.x), kOnes, __dp4a(static_cast<int>(words.y), kOnes, 0));
    about = make_float2(most * (1.F / 127.F), static_cast<float>(warp_sum<8>(total)));
    return words;
}

enum class XForm
{
    kBackbone, // T
    kExact,    // T, and the sum of each chunk
    kInt8,     // 8 bits, with scale and sum of each chunk
};

// Eight values of x, of a row of the block.
struct XPlace
{
    int row, at;

    // So many vectors on, in rows of `columns`.
    template <int kRows>
    __device__ __forceinline__ void advance(int by, int columns)
    {
        at += 8 * by;
        if constexpr (kRows > 1)
            for (; at >= columns; at -= columns)
                ++row;
    }
};

// x in shared memory, zeros up to a whole chunk. A thread has kLoads loads under way at a time.
template <typename T, int kRows, XForm kForm>
__device__ __forceinline__ void fill_x(
    DecodeParams const& d, DecodeBlock const& b, float const* rms)
{
    LinearParams const& p = d.p;
    constexpr int kLoads = kRows == 1 ? 2 : 4;
    int const chunks = chunks_of(p.k);
    int const columns = kChunkColumns * chunks; // of a row
    int const all = columns / 8 * b.rows;
    int const threads = static_cast<int>(blockDim.x);
    int const stride = kForm == XForm::kBackbone ? backbone_x_stride(p.k)
                                                 : river_x_stride(p.k, kForm == XForm::kInt8);
    XPlace next{0, 0};
    next.advance<kRows>(static_cast<int>(threadIdx.x), columns);
#pragma unroll 1
    for (int base = 0; base < all; base += kLoads * threads) // the same turns for all lanes
    {
        uint4 packed[kLoads];
        XPlace places[kLoads];
#pragma unroll
        for (int u = 0; u < kLoads; ++u)
        {
            places[u] = next;
            packed[u] = next.row < b.rows && next.at < p.k
                ? load16(at16(p.x, static_cast<size_t>(b.row0 + next.row) * p.k + next.at))
                : make_uint4(0U, 0U, 0U, 0U);
            next.advance<kRows>(threads, columns);
        }
#pragma unroll
        for (int u = 0; u < kLoads; ++u)
        {
            if (base + u * threads >= all)
                break;
            int const row = places[u].row, at = places[u].at;
            bool const inside = row < b.rows && at < columns; // lanes of a chunk agree
            float values[8] = {};
            if (inside && at < p.k)
                prepare8<T>(p, packed[u], at, p.norm_weight == nullptr ? 1.F : rms[row],
                    kForm != XForm::kBackbone, values);
            char* const to = b.xs + row * stride;
            float2 about = make_float2(1.F, 0.F);
            if constexpr (kForm == XForm::kInt8)
            {
                uint2 const codes = quantise8(values, about);
                if (inside)
                    store8(to + at, codes);
            }
            else
            {
                uint4 const rounded = pack8<T>(values);
                if (inside)
                    store16(to + 2 * at, rounded);
                if constexpr (kForm == XForm::kExact)
                {
                    unpack8<T>(rounded, values);
#pragma unroll
                    for (int j = 0; j < 8; ++j)
                        about.y += values[j];
                    about.y = warp_sum<8>(about.y);
                }
            }
            if (kForm != XForm::kBackbone && threadIdx.x % 8 == 0 && inside)
                b.info[row * chunks + at / kChunkColumns] = about;
        }
    }
}

// The sums of one span of chunks.
template <typename T, bool kInt8>
struct SpanSums
{
    int32_t integers[4];
    float floats[4];

    __device__ __forceinline__ SpanSums()
    {
#pragma unroll
        for (int i = 0; i < 4; ++i)
        {
            integers[i] = static_cast<int32_t>(kIntegerMagic);
            floats[i] = 0.F;
        }
    }
    __device__ __forceinline__ void multiply(uint4 const& codes, char const* x)
    {
        uint32_t const words[4] = {codes.x, codes.y, codes.z, codes.w};
        if constexpr (kInt8)
        {
            constexpr uint32_t kLow = 0x0f0f0f0fU;
            constexpr uint32_t kHigh = 0xf0f0f0f0U; // sixteen times the code: no shift
            uint4 const b = load16(x);
            uint32_t const first[4] = {
                words[0] & kLow, words[0] & kHigh, words[1] & kLow, words[1] & kHigh};
            uint32_t const second[4] = {
                words[2] & kLow, words[2] & kHigh, words[3] & kLow, words[3] & kHigh};
            mma_16x8x32_u8_s8(integers, first, b.x, b.y);
            mma_16x8x32_u8_s8(integers, second, b.z, b.w);
        }
        else
        {
            constexpr uint32_t kMask = 0x000f000fU;
            constexpr uint32_t kMagic = Numeric<T>::kMagic;
            uint4 const b0 = load16(x);
            uint4 const b1 = load16(x + 16);
            uint32_t const b[8] = {b0.x, b0.y, b0.z, b0.w, b1.x, b1.y, b1.z, b1.w};
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
    // scale * sum of (code - zero) * x: element i, whose column of x is `about`
    __device__ __forceinline__ float value(int i, uint32_t scale_and_zero, float2 about) const
    {
        float2 const s = Numeric<__half>::unpack(scale_and_zero);
        if constexpr (kInt8)
        {
            float const factor = i < 2 ? 1.F : 16.F;
            float const whole = bits<float>(integers[i])
                - fmaf(factor * s.y, about.y, kIntegerMagicValue); // all exact
            return whole * (s.x * about.x * (1.F / factor));
        }
        else
            return s.x * fmaf(-(Numeric<T>::kMagicValue + s.y), about.y, floats[i]);
    }
};

template <typename T, int kRows, bool kInt8, int kAhead>
__device__ __forceinline__ void multiply_river(
    DecodeParams const& d, DecodeBlock const& b, uint32_t rows_of_bank)
{
    using Bank = RiverBankPath;
    constexpr int kSpan = 8 / kRows;
    constexpr int kSums = kRows == 8 ? 4 : 2;    // outputs g and g + 8, of two rows or of one
    constexpr int kChunkStep = kInt8 ? 64 : 128; // bytes of a chunk of x
    LinearParams const& p = d.p;
    int const lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
    int const g = lane / 4, t = lane % 4;
    int const chunks = chunks_of(p.k), panels = Bank::panels(d);
    Share const share = share_of<Bank>(d, b);
    int const row = g / kSpan; // of this lane's column
    bool const active = (rows_of_bank >> row & 1U) != 0;
    char const* const x = b.xs + row * river_x_stride(p.k, kInt8) + (kInt8 ? 16 : 32) * t;
    int tile = share.first / panels, panel = share.first % panels;
    int const step = step_of(d, b);
    Cursor c = open_share<Bank>(d, b, kAhead);
    char* slots = b.ring;
    float sums[kSums] = {};
#pragma unroll 1
    for (int item = 0; item < share.count; ++item)
    {
        uint4 scales = take<Bank, kAhead>(d, c, slots, 0);
        if (p.river.group_size == 128)
            scales = make_uint4(scales.x, scales.x, scales.y, scales.y);
        int const chunk0 = panel * kPanelChunks;
        int const here = min(kPanelChunks, chunks - chunk0);
        char const* const x_panel = x + chunk0 * kChunkStep;
#pragma unroll
        for (int span = 0; span < kRows; ++span)
        {
            SpanSums<T, kInt8> c_span;
#pragma unroll
            for (int j = 0; j < kSpan; ++j)
            {
                int const chunk = span * kSpan + j;
                uint4 const codes = take<Bank, kAhead>(d, c, slots, 1 + chunk);
                bool const mine = active && g % kSpan == j;
                if (chunk < here)
                    c_span.multiply(codes, mine ? x_panel + chunk * kChunkStep : b.zeros);
            }
            // the lane's columns 2t and 2t + 1: kRows 8, two rows of a chunk; else two chunks of a row
            int const chunk = span * kSpan + 2 * t % kSpan;
            uint32_t low[2] = {scales.x, scales.y};
            uint32_t high[2] = {scales.z, scales.w};
            if constexpr (kRows > 1)
            {
                int const source = lane / 4 * 4 + chunk / 2; // who has the scales of `chunk`
                low[0] =
                    __shfl_sync(kAllLanes, kRows == 8 && span % 2 ? scales.y : scales.x, source);
                high[0] =
                    __shfl_sync(kAllLanes, kRows == 8 && span % 2 ? scales.w : scales.z, source);
                low[1] = kRows == 8 ? low[0] : __shfl_sync(kAllLanes, scales.y, source);
                high[1] = kRows == 8 ? high[0] : __shfl_sync(kAllLanes, scales.w, source);
            }
#pragma unroll
            for (int column = 0; column < 2; ++column)
            {
                int const of_row = (2 * t + column) / kSpan;
                int const of_chunk = chunk + (kRows == 8 ? 0 : column);
                if ((rows_of_bank >> of_row & 1U) == 0 || of_chunk >= here)
                    continue;
                float2 const about = b.info[of_row * chunks + chunk0 + of_chunk];
                int const s = kRows == 8 ? column : 0;
                sums[s] += c_span.value(column, low[column], about);
                sums[s + kSums / 2] += c_span.value(2 + column, high[column], about);
            }
        }
        if constexpr (kAhead > 1)
        {
            slots += Bank::kPieces * kPieceBytes;
            if (slots == b.ring + kAhead * Bank::kPieces * kPieceBytes)
                slots = b.ring;
        }
        advance<Bank>(d, b, c);
        panel += step;
        if (panel < panels && item + 1 < share.count)
            continue;
        // the warp's part of the tile: lanes of a quad hold parts of the same row, or rows of their own
        float* const slot = b.slots + slot_of(d, b, tile, warp) * (kPackedOutputs * kRows);
#pragma unroll
        for (int i = 0; i < kSums; ++i)
        {
            float sum = sums[i];
            sums[i] = 0.F;
            if constexpr (kRows <= 2)
                sum += __shfl_xor_sync(kAllLanes, sum, 1);
            if constexpr (kRows == 1)
                sum += __shfl_xor_sync(kAllLanes, sum, 2);
            int const output = g + 8 * (i / (kSums / 2));
            int const of_row = kRows == 8 ? 2 * t + i % 2 : t * kRows / 4;
            bool const writes = kRows >= 4 || t % max(1, 4 / kRows) == 0;
            if (writes && (rows_of_bank >> of_row & 1U) != 0)
                slot[output * kRows + of_row] = sum;
        }
        for (; panel >= panels; panel -= panels)
            ++tile;
    }
}

template <typename T, int kRows, int kAhead>
__device__ __forceinline__ void multiply_backbone(
    DecodeParams const& d, DecodeBlock const& b, uint32_t rows_of_bank)
{
    using Bank = BackboneBankPath;
    LinearParams const& p = d.p;
    int const lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
    int const g = lane / 4, t = lane % 4;
    int const panels = Bank::panels(d);
    Share const share = share_of<Bank>(d, b);
    bool const active = (rows_of_bank >> g & 1U) != 0;
    char const* const x = d.x_in_shared
        ? b.xs + g * backbone_x_stride(p.k) + 16 * t
        : at16(p.x, static_cast<size_t>(b.row0 + (active ? g : 0)) * p.k + 8 * t);
    int tile = share.first / panels, panel = share.first % panels;
    int const step = step_of(d, b);
    Cursor c = open_share<Bank>(d, b, kAhead);
    char* slots = b.ring;
    float sums[4] = {};
#pragma unroll 1
    for (int item = 0; item < share.count; ++item)
    {
        uint4 v[4]; // before the copies are waited for: they may come from afar
#pragma unroll
        for (int part = 0; part < 4; ++part)
        {
            int const at = panel * Bank::kColumns + 32 * part;
            v[part] = load16(active && at + 8 * t < p.k ? x + 2 * at : b.zeros);
        }
#pragma unroll
        for (int part = 0; part < 4; ++part) // 32 k
        {
            uint4 const low = take<Bank, kAhead>(d, c, slots, 2 * part);
            uint4 const high = take<Bank, kAhead>(d, c, slots, 2 * part + 1);
            uint32_t const first_half[4] = {low.x, high.x, low.y, high.y};
            uint32_t const second_half[4] = {low.z, high.z, low.w, high.w};
            mma_16x8x16<T>(sums, first_half, v[part].x, v[part].y);
            mma_16x8x16<T>(sums, second_half, v[part].z, v[part].w);
        }
        if constexpr (kAhead > 1)
        {
            slots += Bank::kPieces * kPieceBytes;
            if (slots == b.ring + kAhead * Bank::kPieces * kPieceBytes)
                slots = b.ring;
        }
        advance<Bank>(d, b, c);
        panel += step;
        if (panel < panels && item + 1 < share.count)
            continue;
        float* const slot = b.slots + slot_of(d, b, tile, warp) * (kPackedOutputs * kRows);
#pragma unroll
        for (int i = 0; i < 4; ++i)
        {
            int const of_row = 2 * t + i % 2;
            if (of_row < kRows && (rows_of_bank >> of_row & 1U) != 0)
                slot[(g + 8 * (i / 2)) * kRows + of_row] = sums[i];
            sums[i] = 0.F;
        }
        for (; panel >= panels; panel -= panels)
            ++tile;
    }
}

// The sum of a tile's parts, from all warps that had panels of it.
template <int kRows>
__device__ __forceinline__ float sum_of_parts(DecodeParams const& d, DecodeBlock const& b,
    int panels, int share, int tile, int output, int row)
{
    int warp = d.interleaved ? tile * panels % b.warps : tile * panels / share;
    int const count =
        d.interleaved ? min(panels, b.warps) : (tile * panels + panels - 1) / share - warp + 1;
    float sum = 0.F;
    for (int i = 0; i < count; ++i)
    {
        sum += b.slots[(slot_of(d, b, tile, warp) * kPackedOutputs + output) * kRows + row];
        if (++warp == b.warps) // interleaved alone
            warp = 0;
    }
    return sum;
}

template <typename T, int kRows>
__device__ __forceinline__ void finish(
    DecodeParams const& d, DecodeBlock const& b, uint32_t on_river, float* squares)
{
    LinearParams const& p = d.p;
    int const width = p.silu_mul ? p.n / 2 : p.n;
    int const outputs = b.units * kPackedOutputs;
    // A warp's lanes stay in one row: 32 outputs a turn.
    int const turns = (outputs + kWarpSize - 1) / kWarpSize;
    int const lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
    for (int i = warp; i < turns * b.rows; i += b.warps)
    {
        int const row = i / turns;
        int const local = i % turns * kWarpSize + lane;
        int const n = b.unit(local / kPackedOutputs) * kPackedOutputs + local % kPackedOutputs;
        float square = 0.F;
        if (local < outputs && n < width)
        {
            int const unit = local / kPackedOutputs, output = local % kPackedOutputs;
            bool const river = (on_river >> row & 1U) != 0;
            int const panels = river ? RiverBankPath::panels(d) : BackboneBankPath::panels(d);
            int const share = river ? d.river_share : d.backbone_share;
            auto const total = [&](int tile, int of)
            {
                float const bias = p.bias == nullptr ? 0.F : Numeric<T>::load(p.bias, of);
                return bias + sum_of_parts<kRows>(d, b, panels, share, tile, output, row);
            };
            size_t const at = static_cast<size_t>(b.row0 + row) * width + n;
            float value = total(p.silu_mul ? 2 * unit : unit, n);
            if (p.silu_mul)
                value = value / (1.F + __expf(-value)) * total(2 * unit + 1, n + width);
            else if (p.residual != nullptr)
                value += Numeric<T>::load(p.residual, at);
            Numeric<T>::store(p.y, at, value);
            value = Numeric<T>::unpack(Numeric<T>::pack(value, 0.F)).x;
            square = value * value;
        }
        if (p.sum_squares_out != nullptr)
        {
            square = warp_sum(square);
            if (lane == 0)
                squares[i] = square;
        }
    }
    if (p.sum_squares_out == nullptr)
        return;
    __syncthreads();
    for (int row = threadIdx.x; row < b.rows; row += blockDim.x)
    {
        float sum = 0.F;
        for (int i = 0; i < turns; ++i)
            sum += squares[row * turns + i];
        float* const parts =
            p.sum_squares_out + static_cast<size_t>(b.row0 + row) * kSumSquaresParts;
        parts[blockIdx.x] = sum;
        for (int i = blockIdx.x + gridDim.x; i < kSumSquaresParts; i += gridDim.x)
            parts[i] = 0.F;
    }
}

// Shared memory: rings | zeros | info | slots | x. finish() uses x's for what it needs.
template <int kRows>
__host__ __device__ constexpr size_t slots_bytes(int tiles, int warps, bool interleaved)
{
    return sizeof(float) * kPackedOutputs * kRows
        * static_cast<size_t>(interleaved ? tiles * warps : tiles + warps - 1);
}

template <typename T, int kRows, bool kInt8, int kAhead>
__global__ void __launch_bounds__(decode_threads(kRows, kAhead), 2)
    decode_kernel(__grid_constant__ DecodeParams const d)
{
    RIVER_DYNAMIC_SHARED(memory);
    RIVER_SHARED(rms, float[kRows]);
    LinearParams const& p = d.p;
    int const warp = threadIdx.x / kWarpSize;
    DecodeBlock b;
    b.warps = blockDim.x / kWarpSize;
    b.unit0 = d.interleaved ? blockIdx.x : blockIdx.x * d.units_per_block;
    b.unit_step = d.interleaved ? gridDim.x : 1;
    b.units = d.interleaved ? (d.units - b.unit0 + b.unit_step - 1) / b.unit_step
                            : min(d.units_per_block, d.units - b.unit0);
    b.tiles = p.silu_mul ? 2 * b.units : b.units;
    b.row0 = blockIdx.y * kRows;
    b.rows = min(kRows, p.rows - b.row0);
    constexpr int kRingBytes = kAhead * RiverBankPath::kPieces * kPieceBytes;
    char* const base = reinterpret_cast<char*>(memory);
    b.ring = base + warp * kRingBytes + 16 * (threadIdx.x % kWarpSize);
    b.zeros = base + b.warps * kRingBytes;
    b.info = reinterpret_cast<float2*>(b.zeros + 64);
    b.slots = reinterpret_cast<float*>(b.zeros + 64 + (kRows * chunks_of(p.k) * 8 + 15) / 16 * 16);
    b.xs = reinterpret_cast<char*>(b.slots)
        + slots_bytes<kRows>(d.units_per_block * (p.silu_mul ? 2 : 1), b.warps, d.interleaved);

    // The bank is known before the predecessor ends where the host says so.
    bool const known = p.banks != Banks::kByFlag || p.flags_early;
    if (!known)
    {
        wait_for_predecessor();
        let_successor_start();
    }
    uint32_t const all_rows = (1U << b.rows) - 1U;
    int const lane = threadIdx.x % kWarpSize;
    bool const flag = p.banks == Banks::kByFlag && lane < b.rows
        && load_flag(p.use_river, p.flag_type, b.row0 + lane);
    uint32_t const on_river = p.banks == Banks::kRiver ? all_rows : __ballot_sync(kAllLanes, flag);
    if (threadIdx.x < 16)
        reinterpret_cast<uint32_t*>(b.zeros)[threadIdx.x] = 0U;

#pragma unroll 1
    for (int bank = 0; bank < 2; ++bank) // one piece of code for each, run by what the rows need
    {
        bool const river = bank == 0;
        uint32_t const rows_of_bank = river ? on_river : all_rows & ~on_river;
        if (rows_of_bank == 0)
            continue;
        bool const first = river || on_river == 0;
        if (!first) // the other bank's x and rings are free
        {
            wait_copies<0>();
            __syncthreads();
        }
        if (river)
            start<RiverBankPath, kAhead>(d, b);
        else
            start<BackboneBankPath, kAhead>(d, b);
        if (first && known)
        {
            wait_for_predecessor();
            let_successor_start();
        }
        if (first && p.norm_weight != nullptr)
            measure<T>(d, b, rms);
        if (river)
        {
            fill_x<T, kRows, kInt8 ? XForm::kInt8 : XForm::kExact>(d, b, rms);
            __syncthreads();
            multiply_river<T, kRows, kInt8, kAhead>(d, b, rows_of_bank);
        }
        else
        {
            if (d.x_in_shared)
                fill_x<T, kRows, XForm::kBackbone>(d, b, rms);
            __syncthreads();
            multiply_backbone<T, kRows, kAhead>(d, b, rows_of_bank);
        }
    }
    __syncthreads();
    finish<T, kRows>(d, b, on_river, reinterpret_cast<float*>(base));
}
} // namespace river
