// More than kDecodeRows rows: prologue -> product of each bank -> select, bias, epilogue.
//
//   x -- prologue --+-- xb ------------------------- gemm --> yb --+
//                   |                                              +-- epilogue --> y
//                   +-- xr -- [ dequantise -> w -> gemm ] --> yr --+
//                               a slice of n at a time
#include "linear_prefill.h"

#include "gemm.h"
#include "linear_prefill.cuh"

namespace river
{
namespace
{
constexpr void (*kPrologueKernels[2])(PrologueArgs) = {
    &prologue_kernel<__half>, &prologue_kernel<__nv_bfloat16>};
constexpr void (*kDequantiseKernels[2])(DequantiseArgs) = {
    &dequantise_kernel<__half>, &dequantise_kernel<__nv_bfloat16>};
constexpr void (*kDequantisePackedKernels[2])(DequantiseArgs) = {
    &dequantise_packed_kernel<__half>, &dequantise_packed_kernel<__nv_bfloat16>};
constexpr void (*kEpilogueKernels[2])(EpilogueArgs) = {
    &epilogue_kernel<__half>, &epilogue_kernel<__nv_bfloat16>};

constexpr size_t kSliceBytes = size_t{32} << 20; // of dequantised weights at a time

// Where the parts lie in the workspace; a part that is not needed has no bytes.
struct Plan
{
    bool backbone;
    bool river;
    bool own_river_x; // x differs between the banks
    bool direct;      // one bank and no epilogue: the product is y
    int64_t slice;    // weight rows dequantised at a time
    size_t xb, xr, w, yb, yr, gemm, total;
};

Plan plan_of(LinearParams const& p)
{
    Plan plan{};
    plan.backbone = p.banks != Banks::kRiver;
    plan.river = p.banks != Banks::kBackbone;
    bool const norm = p.norm_weight != nullptr;
    plan.own_river_x = plan.river && (p.river.pre_scale != nullptr || (norm && !plan.backbone));
    plan.direct =
        plan.backbone != plan.river && p.bias == nullptr && p.residual == nullptr && !p.silu_mul;
    size_t const row = sizeof(uint16_t) * static_cast<size_t>(p.k);
    plan.slice = static_cast<int64_t>(kSliceBytes / row / 16 * 16);
    plan.slice = plan.slice < 16 ? 16 : plan.slice > p.n ? p.n : plan.slice;
    size_t const x_bytes = row * p.rows;
    size_t const y_bytes = sizeof(uint16_t) * static_cast<size_t>(p.rows) * p.n;
    auto const take = [&](bool needed, size_t bytes)
    {
        size_t const offset = plan.total;
        plan.total += needed ? (bytes + 255) / 256 * 256 : 0;
        return offset;
    };
    plan.xb = take(plan.backbone && norm, x_bytes);
    plan.xr = take(plan.own_river_x, x_bytes);
    plan.w = take(plan.river, row * plan.slice);
    plan.yb = take(plan.backbone && !plan.direct, y_bytes);
    plan.yr = take(plan.river && !plan.direct, y_bytes);
    plan.gemm = take(true, kGemmWorkspaceBytes);
    return plan;
}

unsigned blocks_for(int64_t threads)
{
    return static_cast<unsigned>((threads + kPrefillThreads - 1) / kPrefillThreads);
}
} // namespace

size_t prefill_workspace_bytes(LinearParams const& p)
{
    return plan_of(p).total;
}

cudaError_t launch_prefill(LinearParams const& p, cudaStream_t stream)
{
    Plan const plan = plan_of(p);
    int const type = static_cast<int>(p.type);
    char* const base = static_cast<char*>(p.workspace);
    bool const norm = p.norm_weight != nullptr;
    void* const yb = plan.direct ? p.y : base + plan.yb;
    void* const yr = plan.direct ? p.y : base + plan.yr;
    cudaError_t error = cudaSuccess;

    PrologueArgs prologue{p, nullptr, nullptr};
    void const* xb = p.x;
    if (plan.backbone && norm)
        xb = prologue.backbone = base + plan.xb;
    void const* xr = xb;
    if (plan.own_river_x)
        xr = prologue.river = base + plan.xr;
    if (prologue.backbone != nullptr || prologue.river != nullptr)
        error = launch(kPrologueKernels[type], dim3(static_cast<unsigned>(p.rows)), kPrefillThreads,
            prologue, p.programmatic, stream);

    Gemm product;
    product.type = p.type;
    product.m = p.rows;
    product.k = p.k;
    product.y_stride = p.n;
    product.workspace = base + plan.gemm;
    product.workspace_bytes = kGemmWorkspaceBytes;
    if (error == cudaSuccess && plan.backbone)
    {
        product.n = p.n;
        product.x = xb;
        product.w = p.weight;
        product.y = yb;
        error = gemm(product, stream);
    }
    for (int64_t n = 0; error == cudaSuccess && plan.river && n < p.n; n += plan.slice)
    {
        int64_t const count = plan.slice < p.n - n ? plan.slice : p.n - n;
        DequantiseArgs const slice{p, static_cast<int>(n), static_cast<int>(count), base + plan.w};
        bool const packed = p.river.packed != nullptr;
        int64_t const tiles = (count + kPackedOutputs - 1) / kPackedOutputs;
        int64_t const chunks = (p.k + kChunkColumns - 1) / kChunkColumns;
        unsigned const blocks =
            blocks_for(packed ? tiles * chunks * kWarpSize : count * ((p.k + 31) / 32));
        error = launch(packed ? kDequantisePackedKernels[type] : kDequantiseKernels[type],
            dim3(blocks), kPrefillThreads, slice, p.programmatic, stream);
        product.n = count;
        product.x = xr;
        product.w = base + plan.w;
        product.y = static_cast<char*>(yr) + sizeof(uint16_t) * n;
        if (error == cudaSuccess)
            error = gemm(product, stream);
    }
    if (error != cudaSuccess || plan.direct)
        return error;
    EpilogueArgs const epilogue{p, plan.backbone ? yb : nullptr, plan.river ? yr : nullptr};
    int64_t const outputs = static_cast<int64_t>(p.rows) * (p.silu_mul ? p.n / 2 : p.n);
    return launch(kEpilogueKernels[type], dim3(blocks_for(outputs)), kPrefillThreads, epilogue,
        p.programmatic, stream);
}
} // namespace river
