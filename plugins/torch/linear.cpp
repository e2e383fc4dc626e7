// The linear kernel as an operator: of the dialect, and with what a decode step fuses into it.
#include "checks.h"

#include <torch/library.h>

namespace river::torch_ops
{
namespace
{
using at::Tensor;

// The river bank as the dialect has it, or packed by `pack` below.
struct River
{
    OptionalTensor qweight = {}, scales = {}, zero_points = {}, pre_scale = {};
    OptionalTensor packed = {}; // [bytes] uint8
    int64_t n = 0;              // of a packed bank, whose tensor does not tell
    int64_t group_size = 0;
    bool int8_activations = false;

    bool given() const
    {
        return qweight.has_value() || packed.has_value();
    }
};

// What the dialect's operator does not have. Either bank alone is a plain linear: no use_river then.
struct Fused
{
    OptionalTensor norm_weight = {}; // [K] x <- rms_norm(x) * norm_weight
    double norm_eps = 0.0;
    bool silu_mul = false;               // y = silu(first half) * second half
    OptionalTensor residual = {};        // [batch, seq, N] is added
    OptionalTensor sum_squares = {};     // [batch * seq, parts] float32, of x
    OptionalTensor sum_squares_out = {}; // [batch * seq, 256] float32, of y
    bool flags_early = false;
    int64_t variant = -1;
};

void set_river(
    char const* op, LinearParams& p, River const& river, int64_t n, int64_t k, c10::Device device)
{
    p.river.pre_scale = checked(op, "pre_scale", river.pre_scale, at::kHalf, {k}, device);
    if (river.packed.has_value())
    {
        size_t const bytes =
            packed_river_bytes(p.n, p.k, narrow(op, "group_size", river.group_size));
        TORCH_CHECK(bytes > 0, op, ": group_size is ", river.group_size,
            ", but a packed bank has groups of 64 or 128");
        p.river.packed =
            checked(op, "packed", river.packed, at::kByte, {static_cast<int64_t>(bytes)}, device);
        p.river.group_size = narrow(op, "group_size", river.group_size);
        p.river.int8_activations = river.int8_activations;
        return;
    }
    int64_t const group_size = 2 * river.qweight->size(2);
    TORCH_CHECK(group_size > 0, op, ": qweight is ", river.qweight->sizes(),
        ", but its last dimension is group_size / 2");
    int64_t const groups = (k + group_size - 1) / group_size;
    p.river.qweight =
        checked(op, "qweight", river.qweight, at::kByte, {n, groups, group_size / 2}, device);
    p.river.scales = checked(op, "scales", river.scales, at::kHalf, {n, groups}, device);
    p.river.group_size = narrow(op, "group_size", group_size);
    p.river.zero_points =
        checked(op, "zero_points", river.zero_points, at::kByte, {n, groups}, device);
}

Tensor run(char const* op, Tensor const& x, OptionalTensor const& use_river,
    OptionalTensor const& weight, River const& river, OptionalTensor const& bias,
    Fused const& fused)
{
    c10::DeviceGuard const guard(x.device());
    TORCH_CHECK(weight.has_value() || river.given(), op, ": neither bank is given");
    TORCH_CHECK(use_river.has_value() == (weight.has_value() && river.given()), op,
        ": use_river chooses between two banks, and is given with both or not at all");
    TORCH_CHECK(river.qweight.has_value() == river.scales.has_value(), op,
        ": qweight and scales go together, but one is missing");
    TORCH_CHECK(x.dim() == 3 && (!weight.has_value() || weight->dim() == 2)
            && (!river.qweight.has_value() || river.qweight->dim() == 3),
        op, ": x, weight and qweight must have 3, 2 and 3 dimensions, but x is ", x.sizes());
    auto const device = x.device();
    auto const type = x.scalar_type();
    int64_t const batch = x.size(0), seq = x.size(1), k = x.size(2);
    int64_t const n = weight.has_value() ? weight->size(0)
        : river.packed.has_value()       ? river.n
                                         : river.qweight->size(0);
    TORCH_CHECK(!fused.silu_mul || n % 2 == 0, op, ": silu_mul halves the outputs, which are ", n);
    Tensor y = at::empty({batch, seq, fused.silu_mul ? n / 2 : n}, x.options());

    LinearParams p;
    p.type = activation_type(op, x);
    p.flag_type = FlagType::kBool;
    p.banks = use_river.has_value() ? Banks::kByFlag
        : weight.has_value()        ? Banks::kBackbone
                                    : Banks::kRiver;
    p.programmatic = true;
    p.rows = narrow(op, "batch * seq", batch * seq);
    p.n = narrow(op, "N", n);
    p.k = narrow(op, "K", k);
    p.x = checked(op, "x", x, type, {batch, seq, k}, device);
    p.use_river = checked(op, "use_river", use_river, at::kBool, {batch, seq}, device);
    p.weight = checked(op, "weight", weight, type, {n, k}, device);
    if (river.given())
        set_river(op, p, river, n, k, device);
    else // of the bank that is not there: a measured variant is known by it
    {
        p.river.group_size = narrow(op, "group_size", river.group_size);
        p.river.int8_activations = river.int8_activations;
    }
    p.bias = checked(op, "bias", bias, type, {n}, device);
    p.norm_weight = checked(op, "norm_weight", fused.norm_weight, type, {k}, device);
    p.norm_eps = static_cast<float>(fused.norm_eps);
    p.silu_mul = fused.silu_mul;
    p.residual = checked(op, "residual", fused.residual, type, {batch, seq, n}, device);
    if (fused.sum_squares.has_value())
    {
        p.sum_squares = static_cast<float const*>(
            checked(op, "sum_squares", fused.sum_squares, at::kFloat, {batch * seq, -1}, device));
        p.sum_squares_parts = narrow(op, "parts of sum_squares", fused.sum_squares->size(1));
    }
    if (fused.sum_squares_out.has_value())
    {
        checked(op, "sum_squares_out", fused.sum_squares_out, at::kFloat,
            {batch * seq, kSumSquaresParts}, device);
        p.sum_squares_out = static_cast<float*>(fused.sum_squares_out->mutable_data_ptr());
    }
    p.flags_early = fused.flags_early;
    p.variant = static_cast<int32_t>(fused.variant);
    p.y = y.mutable_data_ptr();
    Tensor const workspace = scratch(linear_workspace_bytes(p), device);
    p.workspace = workspace.mutable_data_ptr();
    p.workspace_bytes = static_cast<size_t>(workspace.numel());
    require_launched(op, launch_linear(p, current_stream(device)), explain_linear(p));
    return y;
}

// y [batch, seq, N]. See builders/dialect.py for the arguments' shapes; scales and pre_scale are float16.
Tensor linear(Tensor const& x, Tensor const& use_river, Tensor const& weight, Tensor const& qweight,
    Tensor const& scales, OptionalTensor const& zero_points, OptionalTensor const& pre_scale,
    OptionalTensor const& bias)
{
    return run("river_trt::linear", x, use_river, weight,
        River{qweight, scales, zero_points, pre_scale}, bias, {});
}

Tensor fused_linear(Tensor const& x, OptionalTensor const& use_river, OptionalTensor const& weight,
    OptionalTensor const& qweight, OptionalTensor const& scales, OptionalTensor const& zero_points,
    OptionalTensor const& pre_scale, OptionalTensor const& bias, OptionalTensor const& norm_weight,
    double norm_eps, bool silu_mul, OptionalTensor const& residual)
{
    return run("river_trt_cuda::fused_linear", x, use_river, weight,
        River{qweight, scales, zero_points, pre_scale}, bias,
        {norm_weight, norm_eps, silu_mul, residual});
}

// The dialect's bank [N, groups, group_size / 2] of K inputs in the kernel's own layout: uint8.
Tensor pack(
    Tensor const& qweight, Tensor const& scales, OptionalTensor const& zero_points, int64_t k)
{
    char const* const op = "river_trt_cuda::pack";
    c10::DeviceGuard const guard(qweight.device());
    auto const device = qweight.device();
    TORCH_CHECK(
        qweight.dim() == 3, op, ": qweight must have 3 dimensions, but is ", qweight.sizes());
    int64_t const n = qweight.size(0), groups = qweight.size(1), group_size = 2 * qweight.size(2);
    TORCH_CHECK(group_size == 64 || group_size == 128, op, ": group_size is ", group_size,
        ", but a packed bank has groups of 64 or 128");
    TORCH_CHECK(k > 0 && k % 8 == 0 && (k + group_size - 1) / group_size == groups, op, ": K is ",
        k, ", but qweight ", qweight.sizes(), " has ", groups, " groups of ", group_size);
    RiverBank bank;
    bank.qweight = checked(op, "qweight", qweight, at::kByte, {n, groups, -1}, device);
    bank.scales = checked(op, "scales", scales, at::kHalf, {n, groups}, device);
    bank.zero_points = checked(op, "zero_points", zero_points, at::kByte, {n, groups}, device);
    bank.group_size = static_cast<int32_t>(group_size);
    int32_t const rows = narrow(op, "N", n), columns = narrow(op, "K", k);
    Tensor packed = scratch(packed_river_bytes(rows, columns, bank.group_size), device);
    require_launched(op,
        pack_river(bank, rows, columns, packed.mutable_data_ptr(), current_stream(device)),
        nullptr);
    return packed;
}

// As fused_linear, over a bank that pack made, or without one: then group_size and int8_activations
// say which linear by flags it must equal to the bit. flags_early: use_river was written before the
// launch that precedes this one.
Tensor packed_linear(Tensor const& x, OptionalTensor const& use_river, OptionalTensor const& weight,
    OptionalTensor const& packed, int64_t n, int64_t group_size, OptionalTensor const& pre_scale,
    OptionalTensor const& bias, OptionalTensor const& norm_weight, double norm_eps, bool silu_mul,
    OptionalTensor const& residual, bool int8_activations, bool flags_early,
    OptionalTensor const& sum_squares, OptionalTensor const& sum_squares_out, int64_t variant)
{
    River river;
    river.pre_scale = pre_scale;
    river.packed = packed;
    river.n = n;
    river.group_size = group_size;
    river.int8_activations = int8_activations;
    return run("river_trt_cuda::packed_linear", x, use_river, weight, river, bias,
        {norm_weight, norm_eps, silu_mul, residual, sum_squares, sum_squares_out, flags_early,
            variant});
}

// A measured variant of packed_linear for a shape: what its variant -1 then means in this process.
void set_variant(
    int64_t n, int64_t k, int64_t group_size, int64_t rows, bool int8_activations, int64_t variant)
{
    char const* const op = "river_trt_cuda::set_linear_variant";
    bool const known = set_linear_variant(narrow(op, "N", n), narrow(op, "K", k),
        narrow(op, "group_size", group_size), narrow(op, "rows", rows), int8_activations,
        narrow(op, "variant", variant));
    TORCH_CHECK(known, op, ": variant is ", variant, ", but there are ", linear_variants());
}

std::vector<std::string> linear_variants_names()
{
    std::vector<std::string> names;
    for (int i = 0; i < linear_variants(); ++i)
        names.emplace_back(linear_variant_name(i));
    return names;
}

} // namespace

TORCH_LIBRARY_FRAGMENT(river_trt_cuda, library)
{
    library.def("linear(Tensor x, Tensor use_river, Tensor weight, Tensor qweight, Tensor scales, "
                "Tensor? zero_points, Tensor? pre_scale, Tensor? bias) -> Tensor");
    library.def("fused_linear(Tensor x, Tensor? use_river, Tensor? weight, Tensor? qweight, "
                "Tensor? scales, "
                "Tensor? zero_points, Tensor? pre_scale, Tensor? bias, Tensor? norm_weight, float "
                "norm_eps, "
                "bool silu_mul, Tensor? residual) -> Tensor");
    library.def("pack(Tensor qweight, Tensor scales, Tensor? zero_points, int k) -> Tensor");
    library.def("packed_linear(Tensor x, Tensor? use_river, Tensor? weight, Tensor? packed, int n, "
                "int group_size, Tensor? pre_scale, Tensor? bias, Tensor? norm_weight, "
                "float norm_eps, bool silu_mul, Tensor? residual, bool int8_activations, "
                "bool flags_early, Tensor? sum_squares, Tensor(a!)? sum_squares_out, "
                "int variant) -> Tensor");
    library.def("set_linear_variant(int n, int k, int group_size, int rows, "
                "bool int8_activations, int variant) -> ()",
        set_variant);
    library.def("linear_variants() -> str[]", linear_variants_names);
    library.def("linear_version() -> int", [] { return static_cast<int64_t>(linear_version()); });
}

TORCH_LIBRARY_IMPL(river_trt_cuda, RIVER_DISPATCH, library)
{
    library.impl("linear", TORCH_FN(linear));
    library.impl("fused_linear", TORCH_FN(fused_linear));
    library.impl("pack", TORCH_FN(pack));
    library.impl("packed_linear", TORCH_FN(packed_linear));
}

TORCH_LIBRARY_IMPL(river_trt, RIVER_DISPATCH, library)
{
    library.impl("linear", TORCH_FN(linear));
}

} // namespace river::torch_ops
