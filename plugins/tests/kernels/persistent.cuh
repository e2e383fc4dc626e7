// A prototype, in no product's path: the linears of one row that follow each other, in one launch.
//
// The host emits a table of stages, each a linear of decode.cuh over all blocks. A block has as many
// threads as fill an SM's copies, there is one on each SM, and all run at once (a cooperative launch).
//
//   stage s:    rings of s | x of s | products | rings of s + 1 | sums, epilogue | counter
//   stage s+1:                                    (on their way)   (all have counted) | x of s + 1 ...
//
// So weights stream through the wait: a block loads what the next stage multiplies first before it
// adds up, and only x waits for the other blocks, at a counter that all watch. The bank's flag is read
// on the device, once: it is a layer's. The counter is zero before a launch, and left so.
#pragma once

#include "decode.cuh"

#include <algorithm>

namespace river
{
constexpr int kMostStages = 6;
constexpr int kStageAhead = 2; // panels in a warp's ring
constexpr int kStageThreads = 256;

struct Schedule
{
    uint32_t* counter;
    int stages;
    DecodeParams table[kMostStages];
};

#if defined(RIVER_CPU_SHIM)

inline uint32_t count_in(uint32_t* counter)
{
    return (*counter)++;
}
inline void wait_for_count(uint32_t const* counter, uint32_t count)
{
    shim::Block::current().wait_until([&] { return *counter >= count; });
}
// All blocks run together, as the blocks of one cluster.
template <typename Args>
cudaError_t launch_together(
    void (*kernel)(Args), int blocks, int threads, Args const& args, cudaStream_t, size_t bytes)
{
    dim3 const grid(static_cast<unsigned>(blocks));
    shim::run(kernel, grid, threads, args, static_cast<unsigned>(blocks), bytes);
    return cudaSuccess;
}

#else

// What this thread saw, its block's stores among it, is seen by who reads the counter later.
__device__ __forceinline__ uint32_t count_in(uint32_t* counter)
{
    uint32_t before;
    asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], 1;"
        : "=r"(before)
        : "l"(counter)
        : "memory");
    return before;
}
__device__ __forceinline__ void wait_for_count(uint32_t const* counter, uint32_t count)
{
    uint32_t seen;
    do
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(counter) : "memory");
    while (seen < count);
}
template <typename Args>
cudaError_t launch_together(void (*kernel)(Args), int blocks, int threads, Args const& args,
    cudaStream_t stream, size_t bytes)
{
    cudaError_t const error = cudaFuncSetAttribute(reinterpret_cast<void const*>(kernel),
        cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
    if (error != cudaSuccess)
        return error;
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeCooperative;
    attribute.val.cooperative = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(blocks));
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.dynamicSmemBytes = bytes;
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = 1;
    return cudaLaunchKernelEx(&config, kernel, args);
}

#endif

// This block's part of a stage, as decode_kernel has it, but that there may be none: then it only
// counts. (Shared code there costs its instance for 8 rows two instructions a chunk.)
__device__ __forceinline__ DecodeBlock block_of(DecodeParams const& d, char* base)
{
    constexpr int kRingBytes = kStageAhead * RiverBankPath::kPieces * kPieceBytes;
    int const tiles_of_unit = d.p.silu_mul ? 2 : 1;
    DecodeBlock b;
    b.warps = blockDim.x / kWarpSize;
    b.unit0 = blockIdx.x * d.units_per_block;
    b.unit_step = 1;
    b.units = min(d.units_per_block, d.units - b.unit0);
    b.tiles = tiles_of_unit * b.units;
    b.row0 = 0;
    b.rows = 1;
    b.ring = base + threadIdx.x / kWarpSize * kRingBytes + 16 * (threadIdx.x % kWarpSize);
    b.zeros = base + b.warps * kRingBytes;
    b.info = reinterpret_cast<float2*>(b.zeros + 64);
    b.slots = reinterpret_cast<float*>(b.zeros + 64 + (chunks_of(d.p.k) * 8 + 15) / 16 * 16);
    b.xs = reinterpret_cast<char*>(b.slots)
        + slots_bytes<1>(d.units_per_block * tiles_of_unit, b.warps, false);
    return b;
}

template <typename T, bool kInt8>
__global__ void __launch_bounds__(kStageThreads, 1)
    persistent_kernel(__grid_constant__ Schedule const s)
{
    RIVER_DYNAMIC_SHARED(memory);
    RIVER_SHARED(rms, float[1]);
    char* const base = reinterpret_cast<char*>(memory);
    LinearParams const& first = s.table[0].p;
    bool const river = first.banks == Banks::kRiver
        || (first.banks == Banks::kByFlag && load_flag(first.use_river, first.flag_type, 0));
    auto const start_stage = [&](DecodeParams const& d, DecodeBlock const& b)
    {
        if (river)
            start<RiverBankPath, kStageAhead>(d, b);
        else
            start<BackboneBankPath, kStageAhead>(d, b);
    };
    DecodeBlock b = block_of(s.table[0], base);
    if (threadIdx.x < 16)
        reinterpret_cast<uint32_t*>(b.zeros)[threadIdx.x] = 0U;
    start_stage(s.table[0], b);
#pragma unroll 1
    for (int stage = 0; stage < s.stages; ++stage)
    {
        DecodeParams const& d = s.table[stage];
        bool const last = stage + 1 == s.stages;
        if (d.p.norm_weight != nullptr)
            measure<T>(d, b, rms);
        if (river)
            fill_x<T, 1, kInt8 ? XForm::kInt8 : XForm::kExact>(d, b, rms);
        else
            fill_x<T, 1, XForm::kBackbone>(d, b, rms);
        __syncthreads();
        if (river)
            multiply_river<T, 1, kInt8, kStageAhead>(d, b, 1U);
        else
            multiply_backbone<T, 1, kStageAhead>(d, b, 1U);
        DecodeBlock const done = b;
        if (!last)
        {
            b = block_of(s.table[stage + 1], base);
            start_stage(s.table[stage + 1], b);
        }
        __syncthreads();
        finish<T, 1>(d, done, river ? 1U : 0U, reinterpret_cast<float*>(done.xs));
        __syncthreads();
        if (threadIdx.x == 0)
        {
            // Nobody watches the counter when the last block has come to the end.
            uint32_t const before = count_in(s.counter);
            if (!last)
                wait_for_count(s.counter, (stage + 1) * gridDim.x);
            else if (before + 1 == s.stages * gridDim.x)
                *s.counter = 0;
        }
        if (!last)
            __syncthreads();
    }
    wait_copies<0>();
}

// What the host emits: each linear over all blocks. The linears are of one row, type, bank and kind
// of activation, packed, and each but the first reads what those before it write. 0: the bytes of
// shared memory are too many, or a linear is another kind.
inline size_t make_schedule(
    LinearParams const* linears, int count, int blocks, uint32_t* counter, Schedule& s)
{
    s.counter = counter;
    s.stages = count;
    constexpr int kWarps = kStageThreads / kWarpSize;
    size_t most = 0;
    if (count < 1 || count > kMostStages)
        return 0;
    for (int i = 0; i < count; ++i)
    {
        LinearParams const& p = linears[i];
        if (p.rows != 1 || p.river.packed == nullptr || p.type != linears[0].type
            || p.banks != linears[0].banks || p.use_river != linears[0].use_river
            || p.river.int8_activations != linears[0].river.int8_activations
            || (p.sum_squares_out != nullptr && blocks > kSumSquaresParts))
            return 0;
        DecodeParams& d = s.table[i];
        d.p = p;
        d.units = ((p.silu_mul ? p.n / 2 : p.n) + kPackedOutputs - 1) / kPackedOutputs;
        d.units_per_block = (d.units + blocks - 1) / blocks;
        d.interleaved = false;
        d.x_in_shared = true;
        int const tiles = d.units_per_block * (p.silu_mul ? 2 : 1);
        auto const share = [&](int panels)
        {
            return (tiles * panels + kWarps - 1) / kWarps;
        };
        d.river_share = share((chunks_of(p.k) + kPanelChunks - 1) / kPanelChunks);
        d.backbone_share =
            share((p.k + BackboneBankPath::kColumns - 1) / BackboneBankPath::kColumns);
        size_t const x =
            std::max(backbone_x_stride(p.k), river_x_stride(p.k, p.river.int8_activations));
        size_t const info = (8UL * chunks_of(p.k) + 15) / 16 * 16;
        most = std::max(most, 64 + info + slots_bytes<1>(tiles, kWarps, false) + x);
    }
    size_t const bytes = most + kWarps * kStageAhead * RiverBankPath::kPieces * kPieceBytes;
    return bytes <= most_shared_bytes() ? bytes : 0;
}

// cudaErrorInvalidValue where make_schedule has none.
inline cudaError_t launch_persistent(
    LinearParams const* linears, int count, int blocks, uint32_t* counter, cudaStream_t stream)
{
    Schedule s{};
    size_t const bytes = make_schedule(linears, count, blocks, counter, s);
    if (bytes == 0)
        return cudaErrorInvalidValue;
    bool const half = linears[0].type == DataType::kHalf;
    bool const int8 = linears[0].river.int8_activations;
    auto const kernel = half
        ? (int8 ? &persistent_kernel<__half, true> : &persistent_kernel<__half, false>)
        : (int8 ? &persistent_kernel<__nv_bfloat16, true>
                : &persistent_kernel<__nv_bfloat16, false>);
    return launch_together(kernel, blocks, kStageThreads, s, stream, bytes);
}
} // namespace river
