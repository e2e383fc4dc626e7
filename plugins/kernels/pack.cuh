// The packed bank's writer: a block makes a panel, a thread 16 bytes of each piece.
#pragma once

#include "numeric.cuh"
#include "packed.h"

namespace river
{
constexpr int kPackThreads = kWarpSize * kPanelChunks; // a warp a chunk; the first also the scales

struct PackArgs
{
    RiverBank bank;
    PackedShape shape;
    void* packed;
};

// Code k of output n; 0 beyond the end. Its group is whole in memory, so k < groups * group_size.
__device__ __forceinline__ uint32_t code_at(
    RiverBank const& bank, PackedShape const& s, int n, int k)
{
    if (n >= s.n || k >= s.k)
        return 0U;
    int64_t const groups = (s.k + s.group_size - 1) / s.group_size;
    auto const* const codes = static_cast<uint8_t const*>(bank.qweight);
    return codes[(n * groups * s.group_size + k) / 2] >> (4 * (k % 2)) & 15U;
}

// fp16 scale and zero point of output n at column k, as one word.
__device__ __forceinline__ uint32_t scale_at(
    RiverBank const& bank, PackedShape const& s, int n, int k)
{
    if (n >= s.n || k >= s.k)
        return 0U;
    int64_t const groups = (s.k + s.group_size - 1) / s.group_size;
    int64_t const at = n * groups + k / s.group_size;
    uint32_t const scale = static_cast<uint16_t const*>(bank.scales)[at];
    float const zero = bank.zero_points == nullptr
        ? 8.F
        : static_cast<float>(static_cast<uint8_t const*>(bank.zero_points)[at]);
    return scale | Numeric<__half>::pack(0.F, zero);
}

// Codes of word s of lane 4 g + t of a chunk that begins at column k0.
__device__ __forceinline__ uint32_t packed_word(
    RiverBank const& bank, PackedShape const& s, int n0, int k0, int lane, int word)
{
    uint32_t packed = 0U;
#pragma unroll
    for (int nibble = 0; nibble < 8; ++nibble)
    {
        int const n = n0 + lane / 4 + 8 * (nibble % 2);
        int const in_word = nibble / 2 % 2 * 2 + nibble / 4; // 0 2 1 3
        packed |= code_at(bank, s, n, k0 + 16 * (lane % 4) + 4 * word + in_word) << (4 * nibble);
    }
    return packed;
}

__global__ void __launch_bounds__(kPackThreads) pack_kernel(__grid_constant__ PackArgs const args)
{
    wait_for_predecessor();
    let_successor_start();
    PackedShape const& s = args.shape;
    int const lane = threadIdx.x % kWarpSize, chunk = threadIdx.x / kWarpSize;
    int const panel = blockIdx.y, n0 = blockIdx.x * kPackedOutputs;
    int const k0 = (panel * kPanelChunks + chunk) * kChunkColumns;
    char* const out = static_cast<char*>(args.packed) + blockIdx.x * s.tile_bytes()
        + static_cast<int64_t>(panel) * s.panel_bytes();
    if (panel * kPanelChunks + chunk < s.chunks())
        store16(out + s.scale_bytes() + chunk * kChunkBytes + 16 * lane,
            make_uint4(packed_word(args.bank, s, n0, k0, lane, 0),
                packed_word(args.bank, s, n0, k0, lane, 1),
                packed_word(args.bank, s, n0, k0, lane, 2),
                packed_word(args.bank, s, n0, k0, lane, 3)));
    if (chunk > 0)
        return;
    int const low = n0 + lane / 4, high = low + 8;
    int const even = k0 + 2 * (lane % 4) * kChunkColumns, odd = even + kChunkColumns;
    if (s.group_size == 64)
        store16(out + 16 * lane,
            make_uint4(scale_at(args.bank, s, low, even), scale_at(args.bank, s, low, odd),
                scale_at(args.bank, s, high, even), scale_at(args.bank, s, high, odd)));
    else
        store8(out + 8 * lane,
            make_uint2(scale_at(args.bank, s, low, even), scale_at(args.bank, s, high, even)));
}
} // namespace river
