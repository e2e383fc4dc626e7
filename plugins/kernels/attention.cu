// Launcher of attention: limits, geometry, and the table of instances.
#include "attention.cuh"

namespace river
{
namespace
{
using AttentionKernel = void (*)(AttentionArgs);

// [type][head_dim up to 64, 128, 256][one query, four queries a block]
constexpr AttentionKernel kAttentionKernels[2][3][2] = {
    {{&attention_kernel<__half, 8, 1>, &attention_kernel<__half, 8, 4>},
        {&attention_kernel<__half, 16, 1>, &attention_kernel<__half, 16, 4>},
        {&attention_kernel<__half, 32, 1>, &attention_kernel<__half, 32, 4>}},
    {{&attention_kernel<__nv_bfloat16, 8, 1>, &attention_kernel<__nv_bfloat16, 8, 4>},
        {&attention_kernel<__nv_bfloat16, 16, 1>, &attention_kernel<__nv_bfloat16, 16, 4>},
        {&attention_kernel<__nv_bfloat16, 32, 1>, &attention_kernel<__nv_bfloat16, 32, 4>}},
};
constexpr AttentionKernel kAppendKernels[2] = {
    &append_kernel<__half>, &append_kernel<__nv_bfloat16>};

constexpr int kFusedAppendTokens = 8; // more new tokens are stored by append_kernel
constexpr int kBlocksToFill = 264;    // two blocks on each SM of the largest device
constexpr int kMaxSplits = 32;
constexpr int kKeysOfASplit = 64; // fewer aren't worth a block

struct Geometry
{
    int queries; // of a block: 1 or 4
    int chunks;
    int splits;
    size_t counter_bytes;
    size_t partial_bytes;
};

// From host values only, so that the workspace and a captured graph hold for any past length.
Geometry geometry_of(AttentionParams const& p)
{
    Geometry g{};
    int const queries = p.num_heads / p.num_kv_heads * p.seq;
    g.queries = queries == 1 ? 1 : 4;
    g.chunks = (queries + g.queries - 1) / g.queries;
    int64_t const blocks = static_cast<int64_t>(p.batch) * p.num_kv_heads * g.chunks;
    int64_t const reach = p.window > 0 && p.window < p.capacity ? p.window : p.capacity;
    int64_t splits = (kBlocksToFill + blocks - 1) / blocks;
    splits = splits < kMaxSplits ? splits : kMaxSplits;
    int64_t const most = (reach + kKeysOfASplit - 1) / kKeysOfASplit;
    g.splits = static_cast<int>(splits < most ? splits : most);
    g.counter_bytes = (blocks * sizeof(uint32_t) + 15) / 16 * 16;
    if (g.splits > 1)
        g.partial_bytes = blocks * g.splits * g.queries * (2 + p.head_dim) * sizeof(float);
    return g;
}
} // namespace

size_t attention_workspace_bytes(AttentionParams const& p)
{
    Geometry const g = geometry_of(p);
    return g.counter_bytes + g.partial_bytes;
}

char const* explain_attention(AttentionParams const& p)
{
    if (p.type != DataType::kHalf && p.type != DataType::kBfloat16)
        return "attention: type must be fp16 or bf16";
    if (p.batch < 1 || p.batch > 65535 || p.seq < 1)
        return "attention: batch must be 1 to 65535 and seq at least 1";
    if (p.num_kv_heads < 1 || p.num_heads < 1 || p.num_heads % p.num_kv_heads != 0)
        return "attention: num_heads must be a multiple of num_kv_heads";
    if (p.head_dim < 8 || p.head_dim > 256 || p.head_dim % 8 != 0)
        return "attention: head_dim must be a multiple of 8 from 8 to 256";
    if (p.capacity < p.seq)
        return "attention: the cache's capacity is smaller than seq";
    if (p.rotary_dim < 0 || p.rotary_dim > p.head_dim || p.rotary_dim % 2 != 0)
        return "attention: rotary_dim must be even and at most head_dim";
    if (p.rotary_dim > 0
        && (p.num_positions < 1 || p.rotary_cos == nullptr || p.rotary_sin == nullptr))
        return "attention: the rotary tables must be given where rotary_dim is not 0";
    if (p.window < 0 || !(p.softcap >= 0.F))
        return "attention: window and softcap must not be negative";
    if (p.q_stride % 8 != 0 || p.k_stride % 8 != 0 || p.v_stride % 8 != 0)
        return "attention: strides must be multiples of 8";
    if (p.q_stride < p.num_heads * p.head_dim || p.k_stride < p.num_kv_heads * p.head_dim
        || p.v_stride < p.num_kv_heads * p.head_dim)
        return "attention: a stride is smaller than a row";
    if (p.past_lengths == nullptr)
        return "attention: past_lengths must be given";
    for (void const* pointer : {p.q, p.k, p.v, static_cast<void const*>(p.k_cache),
             static_cast<void const*>(p.v_cache), static_cast<void const*>(p.out)})
        if (pointer == nullptr || reinterpret_cast<uintptr_t>(pointer) % 16 != 0)
            return "attention: q, k, v, the caches and out must be given and aligned to 16 bytes";
    Geometry const g = geometry_of(p);
    if (static_cast<int64_t>(g.chunks) * p.num_kv_heads > 65535)
        return "attention: num_heads * seq is too large for one launch";
    if (p.workspace == nullptr || reinterpret_cast<uintptr_t>(p.workspace) % 16 != 0
        || p.workspace_bytes < attention_workspace_bytes(p))
        return "attention: the workspace is smaller than attention_workspace_bytes() or not "
               "aligned";
    return nullptr;
}

cudaError_t launch_attention(AttentionParams const& p, cudaStream_t stream)
{
    if (explain_attention(p) != nullptr)
        return cudaErrorInvalidValue;
    Geometry const g = geometry_of(p);
    AttentionArgs args{};
    args.p = p;
    args.splits = g.splits;
    args.chunks = g.chunks;
    args.appended = p.seq > kFusedAppendTokens;
    args.counters = static_cast<uint32_t*>(p.workspace);
    args.partial = reinterpret_cast<float*>(static_cast<char*>(p.workspace) + g.counter_bytes);
    int const type = static_cast<int>(p.type);
    if (args.appended)
    {
        dim3 const tokens(static_cast<unsigned>(p.batch) * static_cast<unsigned>(p.seq));
        cudaError_t const error =
            launch(kAppendKernels[type], tokens, kAttentionThreads, args, p.programmatic, stream);
        if (error != cudaSuccess)
            return error;
    }
    int const width = p.head_dim <= 64 ? 0 : p.head_dim <= 128 ? 1 : 2;
    dim3 const grid(static_cast<unsigned>(g.splits),
        static_cast<unsigned>(p.num_kv_heads * g.chunks), static_cast<unsigned>(p.batch));
    return launch(kAttentionKernels[type][width][g.queries == 1 ? 0 : 1], grid, kAttentionThreads,
        args, p.programmatic, stream);
}
} // namespace river
