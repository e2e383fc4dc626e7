// The packed river bank: the one description of its layout, read by the packer, the kernels and the
// tests. The dialect's layout stays what engines and checkpoints hold; a bank is packed at load.
//
// A tile is 16 outputs and all of k, in one piece of memory; tile i holds outputs 16 i .. 16 i + 15.
// It is a row of panels of 512 k (the last may be shorter), and a panel is
//
//   scales, a part a lane | chunk 0 | chunk 1 | ... up to chunk 7        a chunk: 16 outputs x 64 k
//
// Everything is in the order of the tensor core's fragments, lane = 4 g + t (mma.cuh):
//   chunk, 16 bytes a lane: word s holds k = 16 t + 4 s + {0 .. 3} of outputs g and g + 8. Its
//     nibbles, lowest first: (g, 0) (g + 8, 0) (g, 2) (g + 8, 2) (g, 1) (g + 8, 1) (g, 3) (g + 8, 3)
//     so `word & 0x000f000f` are codes 0 and 1 of output g, and `word & 0x0f0f0f0f` are codes
//     0 2 1 3 of output g, `word & 0xf0f0f0f0` sixteen times those of output g + 8.
//   scales, groups of 64: 16 bytes a lane: fp16 (scale, zero point) of output g, chunk 2 t; of
//     output g, chunk 2 t + 1; of output g + 8, chunk 2 t; of output g + 8, chunk 2 t + 1.
//   scales, groups of 128: 8 bytes a lane: of output g, and of g + 8, for chunks 2 t and 2 t + 1.
// What is beyond n or k has codes, scales and zero points of 0. Groups of 32 are not packed.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)
#define RIVER_EVERYWHERE __host__ __device__
#else
#define RIVER_EVERYWHERE
#endif

namespace river
{
constexpr int kPackedVersion = 1; // of the layout; a cache of packed banks would depend on it
constexpr int kPackedOutputs = 16;
constexpr int kChunkColumns = 64;
constexpr int kChunkBytes = 512;
constexpr int kPanelChunks = 8;

struct PackedShape
{
    int n, k, group_size; // 64 or 128

    RIVER_EVERYWHERE constexpr int tiles() const
    {
        return (n + kPackedOutputs - 1) / kPackedOutputs;
    }
    RIVER_EVERYWHERE constexpr int chunks() const
    {
        return (k + kChunkColumns - 1) / kChunkColumns;
    }
    RIVER_EVERYWHERE constexpr int panels() const
    {
        return (chunks() + kPanelChunks - 1) / kPanelChunks;
    }
    RIVER_EVERYWHERE constexpr int scale_bytes() const // of a panel
    {
        return group_size == 64 ? 512 : 256;
    }
    RIVER_EVERYWHERE constexpr int panel_bytes() const // of a full one
    {
        return scale_bytes() + kPanelChunks * kChunkBytes;
    }
    RIVER_EVERYWHERE constexpr int64_t tile_bytes() const
    {
        return static_cast<int64_t>(panels()) * scale_bytes()
            + static_cast<int64_t>(chunks()) * kChunkBytes;
    }
    RIVER_EVERYWHERE constexpr int64_t bytes() const
    {
        return tiles() * tile_bytes();
    }
};
} // namespace river
