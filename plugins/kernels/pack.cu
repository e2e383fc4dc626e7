// The dialect's river bank into a packed one (packed.h), and back to T for a prefill.
#include "pack.cuh"

namespace river
{
size_t packed_river_bytes(int32_t n, int32_t k, int32_t group_size)
{
    bool const packs = group_size == 64 || group_size == 128;
    return packs ? static_cast<size_t>(PackedShape{n, k, group_size}.bytes()) : 0;
}

cudaError_t pack_river(
    RiverBank const& bank, int32_t n, int32_t k, void* packed, cudaStream_t stream)
{
    if (n < 1 || k < 8 || k % 8 != 0 || packed_river_bytes(n, k, bank.group_size) == 0
        || bank.qweight == nullptr || bank.scales == nullptr || packed == nullptr
        || reinterpret_cast<uintptr_t>(packed) % 16 != 0)
        return cudaErrorInvalidValue;
    PackedShape const shape{n, k, bank.group_size};
    PackArgs const args{bank, shape, packed};
    dim3 const grid(static_cast<unsigned>(shape.tiles()), static_cast<unsigned>(shape.panels()));
    return launch(&pack_kernel, grid, kPackThreads, args, false, stream);
}
} // namespace river
