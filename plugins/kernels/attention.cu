// Launcher of attention: limits, geometry, and the table of instances.
#include "attention.cuh"

#include <mutex>
#include <vector>

namespace river
{
namespace
{
using AttentionKernel = void (*)(AttentionArgs);

struct Instance
{
    int head_dim; // up to
    int tiles;    // of 8 queries, up to
    int warps;
    AttentionKernel kernels[2]; // fp16, bf16
};

template <int kDim, int kTiles, int kWarps>
constexpr Instance instance()
{
    return {kDim, kTiles, kWarps,
        {&attention_kernel<__half, kDim, kTiles, kWarps>,
            &attention_kernel<__nv_bfloat16, kDim, kTiles, kWarps>}};
}

constexpr Instance kInstances[] = {
    instance<64, 1, 4>(),
    instance<64, 1, 8>(),
    instance<64, 2, 8>(),
    instance<128, 1, 4>(),
    instance<128, 1, 8>(),
    instance<128, 2, 4>(),
    instance<256, 1, 4>(),
};

struct Variant
{
    char const* name;
    Merge merge;
    int splits, queries, warps; // 0: from the shape
};

// What a tuner tries: more keys under way in a block against a shorter way to the sum.
constexpr Variant kVariants[] = {
    {"by shape", Merge::kChosen, 0, 0, 0},
    {"clusters, 4 warps", Merge::kCluster, 0, 8, 4},
    {"clusters, 8 warps", Merge::kCluster, 0, 8, 8},
    {"clusters of 8, 8 warps", Merge::kCluster, 8, 8, 8},
    {"counters, 4 warps", Merge::kCounters, 0, 8, 4},
    {"counters, 8 warps", Merge::kCounters, 0, 8, 8},
    {"clusters, 16 queries", Merge::kCluster, 0, 16, 0},
    {"counters, 16 queries", Merge::kCounters, 0, 16, 0},
};
constexpr int kVariantCount = sizeof(kVariants) / sizeof(kVariants[0]);

constexpr AttentionKernel kAppendKernels[2] = {
    &append_kernel<__half>, &append_kernel<__nv_bfloat16>};

constexpr int kBlocksToFill = 264; // two blocks on each SM of the largest device
constexpr int kMaxSplits = 32;
constexpr size_t kCounterBytes = 4096; // 1,024 blocks; where there are more, keys are not split
constexpr int kKeysOfSplit = 32;       // fewer aren't worth a block
constexpr int kKeysOfCluster = 512;    // a split, at most

struct Geometry
{
    Instance const* instance;
    int chunks;
    int splits;
    bool cluster;
    size_t counter_bytes;
    size_t parts; // of the workspace: outputs and softmaxes of all splits
};

// Of these queries, and of the wanted warps where there is such a one; nullptr where there is none, or
// not with the caller's own choice of warps.
Instance const* instance_of(AttentionParams const& p, int tiles, int warps)
{
    Instance const* chosen = nullptr;
    for (Instance const& i : kInstances)
    {
        bool const nearer = chosen == nullptr || i.warps == warps;
        bool const wider = chosen != nullptr && i.head_dim > chosen->head_dim;
        bool const taken = p.warps == 0 || p.warps == i.warps;
        if (i.head_dim >= p.head_dim && i.tiles == tiles && nearer && !wider && taken)
            chosen = &i;
    }
    return chosen;
}

bool is_aligned(void const* p)
{
    return reinterpret_cast<uintptr_t>(p) % 16 == 0;
}

// Whether a cluster can have so many blocks.
bool is_cluster(int splits)
{
    return (splits & (splits - 1)) == 0 && splits <= max_cluster_blocks();
}

int64_t queries_of(AttentionParams const& p) // of a KV head
{
    return static_cast<int64_t>(p.num_heads / p.num_kv_heads) * p.seq;
}

int smaller(int64_t a, int64_t b)
{
    return static_cast<int>(a < b ? a : b);
}

Geometry geometry_with(AttentionParams const& p, int tiles)
{
    Geometry g{};
    int const width = 8 * tiles;
    g.chunks = static_cast<int>((queries_of(p) + width - 1) / width);
    int64_t const blocks = static_cast<int64_t>(p.batch) * p.num_kv_heads * g.chunks;
    int64_t const fill = blocks > kBlocksToFill ? 1 : kBlocksToFill / blocks;
    int64_t const reach = p.window > 0 && p.window < p.capacity ? p.window + p.seq : p.capacity;
    g.splits = smaller(fill, (reach + kKeysOfSplit - 1) / kKeysOfSplit);
    int power = 1; // of two, as a cluster needs it
    while (2 * power <= g.splits && 2 * power <= max_cluster_blocks())
        power *= 2;
    // A cluster adds few keys up sooner, but its blocks must find room at the same time.
    bool const short_splits = 2 * power <= g.splits || reach <= kKeysOfCluster * power;
    bool const may_cluster = max_cluster_blocks() > 1 && (p.splits == 0 || is_cluster(p.splits));
    g.cluster =
        p.merge == Merge::kCluster || (p.merge == Merge::kChosen && may_cluster && short_splits);
    g.splits = p.splits > 0 ? p.splits : g.cluster ? power : smaller(g.splits, kMaxSplits);
    g.cluster = g.cluster && g.splits > 1;
    g.instance = instance_of(p, tiles, g.cluster ? 4 : 8);
    if (g.instance == nullptr || g.splits == 1 || g.cluster)
        return g;
    // Of one size for nearly all shapes, so that a workspace is ready for another one as it is.
    g.counter_bytes =
        (blocks * sizeof(uint32_t) + kCounterBytes - 1) / kCounterBytes * kCounterBytes;
    g.parts = static_cast<size_t>(blocks) * g.splits * width * g.instance->head_dim / 4;
    return g;
}

// From host values only, so that the workspace and a captured graph hold for any past length.
Geometry geometry_by_shape(AttentionParams const& p)
{
    if (p.queries != 0)
        return geometry_with(p, p.queries / 8);
    // Sixteen queries a block read the cache half as often; that is worth it where the device is
    // filled all the same.
    int64_t const blocks =
        static_cast<int64_t>(p.batch) * p.num_kv_heads * (queries_of(p) + 15) / 16;
    int const tiles = queries_of(p) > 8 && 4 * blocks >= kBlocksToFill ? 2 : 1;
    Geometry const g = geometry_with(p, tiles);
    return g.instance != nullptr ? g : geometry_with(p, 3 - tiles);
}

bool is_possible(AttentionParams const& p, Geometry const& g)
{
    return g.instance != nullptr && p.splits >= 0 && p.splits <= kMaxSplits
        && (!g.cluster || is_cluster(g.splits))
        && (p.merge != Merge::kCluster || max_cluster_blocks() > 1);
}

// What was measured on this process's card; few entries, read at every launch.
struct Tuned
{
    int32_t batch, seq, num_heads, num_kv_heads, head_dim, capacity, window;
    int variant;

    bool is_of(AttentionParams const& p) const
    {
        return batch == p.batch && seq == p.seq && num_heads == p.num_heads
            && num_kv_heads == p.num_kv_heads && head_dim == p.head_dim && capacity == p.capacity
            && window == p.window;
    }
};
std::mutex tuned_mutex;
std::vector<Tuned> tuned;

bool is_open(AttentionParams const& p) // whether the caller left the choice
{
    return p.merge == Merge::kChosen && p.splits == 0 && p.queries == 0 && p.warps == 0;
}

Geometry geometry_of(AttentionParams const& p)
{
    if (!is_open(p))
        return geometry_by_shape(p);
    AttentionParams measured = p;
    {
        std::lock_guard const lock(tuned_mutex);
        for (Tuned const& t : tuned)
            if (t.is_of(p))
                take_attention_variant(measured, t.variant);
    }
    Geometry const g = geometry_by_shape(measured);
    return is_possible(measured, g) ? g : geometry_by_shape(p);
}
} // namespace

int attention_variants()
{
    return kVariantCount;
}

char const* attention_variant_name(int variant)
{
    return variant >= 0 && variant < kVariantCount ? kVariants[variant].name : nullptr;
}

bool take_attention_variant(AttentionParams& p, int variant)
{
    if (variant < 0 || variant >= kVariantCount)
        return false;
    Variant const& v = kVariants[variant];
    p.merge = v.merge;
    p.splits = v.splits;
    p.queries = v.queries;
    p.warps = v.warps;
    return true;
}

bool set_attention_variant(AttentionParams const& p, int variant)
{
    if (variant < 0 || variant >= kVariantCount)
        return false;
    std::lock_guard const lock(tuned_mutex);
    for (Tuned& t : tuned)
        if (t.is_of(p))
        {
            t.variant = variant;
            return true;
        }
    tuned.push_back(
        {p.batch, p.seq, p.num_heads, p.num_kv_heads, p.head_dim, p.capacity, p.window, variant});
    return true;
}

int32_t attention_version()
{
    return 1;
}

size_t attention_workspace_bytes(AttentionParams const& p)
{
    Geometry const g = geometry_of(p);
    return g.counter_bytes + g.parts * (sizeof(float4) + sizeof(Softmax));
}

size_t attention_counter_bytes(AttentionParams const& p)
{
    return geometry_of(p).counter_bytes;
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
    if (g.instance == nullptr)
        return "attention: there is no variant of these queries and warps for this head_dim";
    if (!is_possible(p, g))
        return "attention: splits must be 0 to 32, and of a cluster a power of two of at most 16 "
               "on a device with clusters";
    if (static_cast<int64_t>(g.chunks) * p.num_kv_heads > 65535)
        return "attention: num_heads * seq is too large for one launch";
    size_t const needed = attention_workspace_bytes(p);
    if (needed > 0
        && (p.workspace == nullptr || !is_aligned(p.workspace) || p.workspace_bytes < needed))
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
    args.heads_per_kv = p.num_heads / p.num_kv_heads;
    args.by_heads_per_kv = Divider(args.heads_per_kv);
    args.by_chunks = Divider(g.chunks);
    args.by_splits = Divider(g.splits);
    args.splits = g.splits;
    args.chunks = g.chunks;
    args.appended = p.seq > kFusedAppendTokens;
    args.cluster = g.cluster;
    args.prefetch = g.cluster;
    args.wide_turns =
        p.rotary_dim % 16 == 0 && is_aligned(p.rotary_cos) && is_aligned(p.rotary_sin);
    args.scale_log2 = p.scale * kLog2e;
    args.scale_cap = p.softcap > 0.F ? 2.F * args.scale_log2 / p.softcap : 0.F;
    int const queries = smaller(8 * g.instance->tiles, queries_of(p));
    while ((g.splits << args.share_log2) < queries * g.instance->head_dim / 4)
        ++args.share_log2;
    args.counters = static_cast<uint32_t*>(p.workspace);
    args.partial_out = reinterpret_cast<float4*>(static_cast<char*>(p.workspace) + g.counter_bytes);
    args.partial_softmax = reinterpret_cast<Softmax*>(args.partial_out + g.parts);
    int const type = static_cast<int>(p.type);
    if (args.appended)
    {
        dim3 const tokens(static_cast<unsigned>(p.batch) * static_cast<unsigned>(p.seq));
        cudaError_t const error =
            launch(kAppendKernels[type], tokens, kAppendThreads, args, p.programmatic, stream);
        if (error != cudaSuccess)
            return error;
    }
    dim3 const grid(static_cast<unsigned>(g.splits),
        static_cast<unsigned>(p.num_kv_heads * g.chunks), static_cast<unsigned>(p.batch));
    AttentionKernel const kernel = g.instance->kernels[type];
    int const threads = g.instance->warps * kWarpSize;
    return g.cluster
        ? launch_clusters(kernel, grid, threads, g.splits, args, p.programmatic, stream)
        : launch(kernel, grid, threads, args, p.programmatic, stream);
}
} // namespace river
