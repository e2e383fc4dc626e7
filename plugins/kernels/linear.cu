// Launcher of the linear kernels: limits, geometry, and the table of instances.
#include "linear.cuh"
#include "decode.h"
#include "linear_prefill.h"

namespace river
{
namespace
{
using LinearKernel = void (*)(LinearParams);

// [type][tiles - 1][norm]
constexpr LinearKernel kLinearKernels[2][2][2] = {
    {{&linear_kernel<__half, 1, false>, &linear_kernel<__half, 1, true>},
        {&linear_kernel<__half, 2, false>, &linear_kernel<__half, 2, true>}},
    {{&linear_kernel<__nv_bfloat16, 1, false>, &linear_kernel<__nv_bfloat16, 1, true>},
        {&linear_kernel<__nv_bfloat16, 2, false>, &linear_kernel<__nv_bfloat16, 2, true>}},
};

// Two tiles a block halve the reads of x; they are worth it where enough blocks remain to fill the
// largest device (H100: 132 SMs, two blocks each).
constexpr int kBlocksToFill = 264;

cudaError_t launch_decode(LinearParams const& p, cudaStream_t stream)
{
    int const tiles = p.silu_mul || p.n / (2 * kTileOutputs) >= kBlocksToFill ? 2 : 1;
    int const width = p.silu_mul ? p.n / 2 : p.n;
    int const outputs = p.silu_mul ? kTileOutputs : tiles * kTileOutputs;
    dim3 const grid((width + outputs - 1) / outputs, (p.rows + kDecodeRows - 1) / kDecodeRows);
    LinearKernel const kernel =
        kLinearKernels[static_cast<int>(p.type)][tiles - 1][p.norm_weight != nullptr ? 1 : 0];
    return launch(kernel, grid, kLinearThreads, p, p.programmatic, stream);
}

bool is_aligned(void const* p)
{
    return reinterpret_cast<uintptr_t>(p) % 16 == 0;
}
} // namespace

char const* explain_linear(LinearParams const& p)
{
    bool const backbone = p.banks != Banks::kRiver;
    bool const river = p.banks != Banks::kBackbone;
    if (p.type != DataType::kHalf && p.type != DataType::kBfloat16)
        return "linear: type must be fp16 or bf16";
    if (p.rows < 1 || p.rows > 65536)
        return "linear: rows must be 1 to 65536";
    if (p.n < 1)
        return "linear: n must be at least 1";
    if (p.k < 8 || p.k > 131072 || p.k % 8 != 0)
        return "linear: k must be a multiple of 8 from 8 to 131072";
    if (p.x == nullptr || p.y == nullptr)
        return "linear: x and y must be given";
    if (p.banks == Banks::kByFlag && p.use_river == nullptr)
        return "linear: use_river must be given unless banks names one bank";
    if (backbone && p.weight == nullptr)
        return "linear: the backbone's weight must be given unless banks is kRiver";
    bool const packed = p.river.packed != nullptr;
    if (river && !packed && (p.river.qweight == nullptr || p.river.scales == nullptr))
        return "linear: the river's qweight and scales, or packed, must be given unless banks is "
               "kBackbone";
    int const g = p.river.group_size;
    if (river && g != 32 && g != 64 && g != 128)
        return "linear: group_size must be 32, 64 or 128";
    if (p.silu_mul && p.n % 2 != 0)
        return "linear: n must be even with silu_mul";
    if (p.silu_mul && p.residual != nullptr)
        return "linear: silu_mul and residual exclude each other";
    for (void const* pointer :
        {p.x, p.weight, p.river.qweight, p.river.pre_scale, p.river.packed, p.norm_weight})
        if (!is_aligned(pointer))
            return "linear: x, weight, qweight, packed, pre_scale and norm_weight must be aligned "
                   "to 16 bytes";
    if (p.rows > kDecodeRows && p.prefill == Prefill::kCublasLt
        && (p.workspace == nullptr || !is_aligned(p.workspace)
            || p.workspace_bytes < linear_workspace_bytes(p)))
        return "linear: the workspace is smaller than linear_workspace_bytes() or not aligned";
    if (uses_decode(p))
        return explain_decode(p);
    if (packed && river && p.prefill == Prefill::kRowTiles)
        return "linear: kRowTiles reads the dialect's layout, not a packed bank";
    if (p.sum_squares_out != nullptr)
        return "linear: sum_squares_out needs a packed bank or the backbone alone, and at most 8 "
               "rows";
    return nullptr;
}

size_t linear_workspace_bytes(LinearParams const& p)
{
    return p.rows > kDecodeRows && p.prefill == Prefill::kCublasLt ? prefill_workspace_bytes(p) : 0;
}

cudaError_t launch_linear(LinearParams const& p, cudaStream_t stream)
{
    if (explain_linear(p) != nullptr)
        return cudaErrorInvalidValue;
    if (p.rows > kDecodeRows && p.prefill == Prefill::kCublasLt)
        return launch_prefill(p, stream);
    if (uses_decode(p))
        return launch_packed_decode(p, stream);
    return launch_decode(p, stream);
}
} // namespace river
