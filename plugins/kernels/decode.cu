// Launcher of the decode kernel over packed banks: its variants, geometry and limits.
#include "decode.h"

#include <algorithm>
#include <mutex>
#include <vector>

#include "decode_table.cuh"

namespace river
{
namespace
{
struct Variant
{
    char const* name;
    int threads;
    int blocks; // of an SM
    int ahead;  // panels in a warp's ring
    bool interleaved;
};

// More bytes under way against more room for the next kernel on the same SM. Measured beside each
// other by tests/kernels/gpu/decode_variants.cu.
constexpr Variant kVariants[] = {
    {"16 warps", 512, 1, 1, false},
    {"8 warps, deep", 256, 1, 2, false},
    {"2 x 8 warps", 256, 2, 1, false},
    {"2 x 16 warps", 512, 2, 1, false},
    {"12 warps", 384, 1, 1, false},
    {"2 x 8 warps, deep", 256, 2, 2, false},
    {"16 warps, interleaved", 512, 1, 1, true},
    {"8 warps, deep, interleaved", 256, 1, 2, true},
    {"2 x 8 warps, deep, interleaved", 256, 2, 2, true},
};
constexpr int kVariantCount = sizeof(kVariants) / sizeof(kVariants[0]);

struct Plan
{
    DecodeParams params;
    int rows; // of an instance: 1, 2, 4 or 8
    int rows_index;
    int threads;
    dim3 grid;
    size_t shared_bytes;
};

int threads_of(Variant const& v, int rows)
{
    return std::min(v.threads, decode_threads(rows, v.ahead));
}

template <int kRows>
size_t shared_bytes_of(DecodeParams const& d, Variant const& v, size_t x_stride)
{
    int const warps = threads_of(v, kRows) / kWarpSize;
    size_t const info = (8UL * kRows * chunks_of(d.p.k) + 15) / 16 * 16;
    return static_cast<size_t>(warps) * v.ahead * RiverBankPath::kPieces * kPieceBytes + 64 + info
        + slots_bytes<kRows>(d.units_per_block * (d.p.silu_mul ? 2 : 1), warps, v.interleaved)
        + kRows * x_stride;
}

size_t shared_bytes_of(int rows_index, DecodeParams const& d, Variant const& v, size_t x_stride)
{
    switch (rows_index)
    {
    case 0:
        return shared_bytes_of<1>(d, v, x_stride);
    case 1:
        return shared_bytes_of<2>(d, v, x_stride);
    case 2:
        return shared_bytes_of<4>(d, v, x_stride);
    default:
        return shared_bytes_of<8>(d, v, x_stride);
    }
}

// The largest instance whose x fits, over as many row tiles as it takes.
bool make_plan(LinearParams const& p, Variant const& v, Plan& plan)
{
    DecodeParams& d = plan.params;
    d.p = p;
    int const width = p.silu_mul ? p.n / 2 : p.n;
    d.units = (width + kPackedOutputs - 1) / kPackedOutputs;
    int blocks = multiprocessors() * v.blocks;
    if (p.sum_squares_out != nullptr && blocks > kSumSquaresParts)
        blocks = kSumSquaresParts;
    if (blocks < 1)
        return false;
    d.units_per_block = (d.units + blocks - 1) / blocks;
    d.interleaved = v.interleaved;
    // Shared memory of an SM is shared by its blocks; 1 KiB of each is CUDA's.
    size_t const limit = (most_shared_bytes() + 1024) / v.blocks - 1024;
    bool const river = p.banks != Banks::kBackbone;
    bool const backbone = p.banks != Banks::kRiver;
    size_t const river_x = river ? river_x_stride(p.k, p.river.int8_activations) : 0;
    size_t const backbone_x = backbone ? backbone_x_stride(p.k) : 0;
    int index = p.rows == 1 ? 0 : p.rows == 2 ? 1 : p.rows <= 4 ? 2 : 3;
    for (; index >= 0; --index)
    {
        size_t const both = river_x > backbone_x ? river_x : backbone_x;
        d.x_in_shared = true;
        plan.shared_bytes = shared_bytes_of(index, d, v, both);
        if (plan.shared_bytes <= limit)
            break;
        if (p.norm_weight != nullptr)
            continue;
        d.x_in_shared = false;
        plan.shared_bytes = shared_bytes_of(index, d, v, river_x);
        if (plan.shared_bytes <= limit)
            break;
    }
    if (index < 0)
        return false;
    plan.rows_index = index;
    plan.rows = 1 << index;
    plan.threads = threads_of(v, plan.rows);
    int const warps = plan.threads / kWarpSize;
    int const tiles = d.units_per_block * (p.silu_mul ? 2 : 1);
    auto const share = [&](int panels)
    {
        return (tiles * panels + warps - 1) / warps;
    };
    d.river_share = share((chunks_of(p.k) + kPanelChunks - 1) / kPanelChunks);
    d.backbone_share = share((p.k + BackboneBankPath::kColumns - 1) / BackboneBankPath::kColumns);
    int const whole = (d.units + d.units_per_block - 1) / d.units_per_block;
    plan.grid = dim3(static_cast<unsigned>(v.interleaved ? std::min(blocks, d.units) : whole),
        static_cast<unsigned>((p.rows + plan.rows - 1) / plan.rows));
    return true;
}

// What was measured on this process's card; few entries, read at every launch.
struct Tuned
{
    int32_t n, k, group_size, rows, variant;
    bool int8_activations;
};
std::mutex tuned_mutex;
std::vector<Tuned> tuned;

Tuned* find_tuned(int32_t n, int32_t k, int32_t group_size, int32_t rows, bool int8_activations)
{
    for (Tuned& t : tuned)
        if (t.n == n && t.k == k && t.group_size == group_size && t.rows == rows
            && t.int8_activations == int8_activations)
            return &t;
    return nullptr;
}

// Without a measurement: what was best, or near it, on an H200. Eight deep warps have the most bytes
// under way for their instructions; exact activations and more rows take more instructions. A plain
// linear takes what the same linear takes with flags: one order of sums; where nothing is said of the
// river, with 8-bit activations.
int default_variant(LinearParams const& p)
{
    bool const plain = p.banks == Banks::kBackbone && p.river.group_size == 0;
    std::lock_guard const lock(tuned_mutex);
    for (Tuned const& t : tuned)
        if (t.n == p.n && t.k == p.k && t.rows == p.rows
            && (plain ? t.int8_activations
                      : t.group_size == p.river.group_size
                        && t.int8_activations == p.river.int8_activations))
            return t.variant;
    return p.rows == 1 && (plain || p.river.int8_activations) ? 1 : 0;
}

bool find_plan(LinearParams const& p, Plan& plan, Variant const*& variant)
{
    variant = &kVariants[p.variant >= 0 ? p.variant : default_variant(p)];
    if (make_plan(p, *variant, plan))
        return true;
    if (p.variant >= 0)
        return false;
    for (Variant const& other : kVariants)
        if (make_plan(p, other, plan))
        {
            variant = &other;
            return true;
        }
    return false;
}
} // namespace

int linear_variants()
{
    return kVariantCount;
}

char const* linear_variant_name(int variant)
{
    return variant >= 0 && variant < kVariantCount ? kVariants[variant].name : nullptr;
}

int32_t linear_version()
{
    return 100 * kPackedVersion + 1;
}

bool set_linear_variant(
    int32_t n, int32_t k, int32_t group_size, int32_t rows, bool int8_activations, int32_t variant)
{
    if (variant < 0 || variant >= kVariantCount)
        return false;
    std::lock_guard const lock(tuned_mutex);
    Tuned const entry{n, k, group_size, rows, variant, int8_activations};
    if (Tuned* const found = find_tuned(n, k, group_size, rows, int8_activations))
        *found = entry;
    else
        tuned.push_back(entry);
    return true;
}

bool linear_variant_fits(LinearParams const& p, int variant)
{
    Plan plan{};
    return variant >= 0 && variant < kVariantCount && make_plan(p, kVariants[variant], plan);
}

bool uses_decode(LinearParams const& p)
{
    if (p.rows > kDecodeRows)
        return false;
    if (p.variant >= 0 || (p.banks != Banks::kBackbone && p.river.packed != nullptr))
        return true;
    return p.banks == Banks::kBackbone && explain_decode(p) == nullptr;
}

char const* explain_decode(LinearParams const& p)
{
    int const width = p.silu_mul ? p.n / 2 : p.n;
    if (p.variant < -1 || p.variant >= kVariantCount)
        return "linear: variant must be -1 or below linear_variants()";
    if (p.banks != Banks::kBackbone && p.river.group_size != 64 && p.river.group_size != 128)
        return "linear: a packed bank has groups of 64 or 128";
    if (p.silu_mul && width % kPackedOutputs != 0)
        return "linear: silu_mul over a packed bank needs n / 2 to be a multiple of 16";
    if (p.sum_squares != nullptr && p.sum_squares_parts < 1)
        return "linear: sum_squares_parts must be at least 1 where sum_squares is given";
    if (p.sum_squares_out != nullptr && p.silu_mul)
        return "linear: sum_squares_out and silu_mul exclude each other";
    Plan plan{};
    Variant const* variant = nullptr;
    if (!find_plan(p, plan, variant))
        return "linear: a row of x does not fit this device's shared memory";
    return nullptr;
}

cudaError_t launch_packed_decode(LinearParams const& p, cudaStream_t stream)
{
    Plan plan{};
    Variant const* variant = nullptr;
    if (!find_plan(p, plan, variant))
        return cudaErrorInvalidValue;
    DecodeTable const& table = p.type == DataType::kHalf ? kDecodeHalf : kDecodeBfloat16;
    DecodeKernel const kernel =
        table[plan.rows_index][p.river.int8_activations ? 1 : 0][variant->ahead - 1];
    return launch(
        kernel, plan.grid, plan.threads, plan.params, p.programmatic, stream, plan.shared_bytes);
}
} // namespace river
