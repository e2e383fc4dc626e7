// The linear kernel as an operator: of the dialect, and with what a decode step fuses into it.
#include "checks.h"

#include <torch/library.h>

namespace river::torch_ops
{
namespace
{
using at::Tensor;

// What the dialect's operator does not have. Either bank alone is a plain linear: no use_river then.
struct Fused
{
    OptionalTensor norm_weight; // [K] x <- rms_norm(x) * norm_weight
    double norm_eps = 0.0;
    bool silu_mul = false;   // y = silu(first half) * second half
    OptionalTensor residual; // [batch, seq, N] is added
};

Tensor run(char const* op, Tensor const& x, OptionalTensor const& use_river,
    OptionalTensor const& weight, OptionalTensor const& qweight, OptionalTensor const& scales,
    OptionalTensor const& zero_points, OptionalTensor const& pre_scale, OptionalTensor const& bias,
    Fused const& fused)
{
    c10::DeviceGuard const guard(x.device());
    TORCH_CHECK(weight.has_value() || qweight.has_value(), op, ": neither bank is given");
    TORCH_CHECK(use_river.has_value() == (weight.has_value() && qweight.has_value()), op,
        ": use_river chooses between two banks, and is given with both or not at all");
    TORCH_CHECK(qweight.has_value() == scales.has_value(), op,
        ": qweight and scales go together, but one is missing");
    TORCH_CHECK(x.dim() == 3 && (!weight.has_value() || weight->dim() == 2)
            && (!qweight.has_value() || qweight->dim() == 3),
        op, ": x, weight and qweight must have 3, 2 and 3 dimensions, but x is ", x.sizes());
    auto const device = x.device();
    auto const type = x.scalar_type();
    int64_t const batch = x.size(0), seq = x.size(1), k = x.size(2);
    int64_t const n = weight.has_value() ? weight->size(0) : qweight->size(0);
    TORCH_CHECK(!fused.silu_mul || n % 2 == 0, op, ": silu_mul halves the outputs, which are ", n);
    Tensor y = at::empty({batch, seq, fused.silu_mul ? n / 2 : n}, x.options());

    LinearParams p;
    p.type = activationType(op, x);
    p.flag_type = FlagType::kBool;
    p.banks = use_river.has_value() ? Banks::kByFlag
        : weight.has_value()        ? Banks::kBackbone
                                    : Banks::kRiver;
    p.rows = narrow(op, "batch * seq", batch * seq);
    p.n = narrow(op, "N", n);
    p.k = narrow(op, "K", k);
    p.x = checked(op, "x", x, type, {batch, seq, k}, device);
    p.use_river = checked(op, "use_river", use_river, at::kBool, {batch, seq}, device);
    p.weight = checked(op, "weight", weight, type, {n, k}, device);
    if (qweight.has_value())
    {
        int64_t const group_size = 2 * qweight->size(2);
        TORCH_CHECK(group_size > 0, op, ": qweight is ", qweight->sizes(),
            ", but its last dimension is group_size / 2");
        int64_t const groups = (k + group_size - 1) / group_size;
        p.river.qweight =
            checked(op, "qweight", qweight, at::kByte, {n, groups, group_size / 2}, device);
        p.river.scales = checked(op, "scales", scales, at::kHalf, {n, groups}, device);
        p.river.group_size = narrow(op, "group_size", group_size);
        p.river.zero_points =
            checked(op, "zero_points", zero_points, at::kByte, {n, groups}, device);
        p.river.pre_scale = checked(op, "pre_scale", pre_scale, at::kHalf, {k}, device);
    }
    p.bias = checked(op, "bias", bias, type, {n}, device);
    p.norm_weight = checked(op, "norm_weight", fused.norm_weight, type, {k}, device);
    p.norm_eps = static_cast<float>(fused.norm_eps);
    p.silu_mul = fused.silu_mul;
    p.residual = checked(op, "residual", fused.residual, type, {batch, seq, n}, device);
    p.y = y.mutable_data_ptr();
    Tensor const workspace = scratch(linear_workspace_bytes(p), device);
    p.workspace = workspace.mutable_data_ptr();
    p.workspace_bytes = static_cast<size_t>(workspace.numel());
    requireLaunched(op, launch_linear(p, currentStream(device)), explain_linear(p));
    return y;
}

// y [batch, seq, N]. See builders/dialect.py for the arguments' shapes; scales and pre_scale are float16.
Tensor linear(Tensor const& x, Tensor const& use_river, Tensor const& weight, Tensor const& qweight,
    Tensor const& scales, OptionalTensor const& zero_points, OptionalTensor const& pre_scale,
    OptionalTensor const& bias)
{
    return run("river_trt::linear", x, use_river, weight, qweight, scales, zero_points, pre_scale,
        bias, {});
}

Tensor fused_linear(Tensor const& x, OptionalTensor const& use_river, OptionalTensor const& weight,
    OptionalTensor const& qweight, OptionalTensor const& scales, OptionalTensor const& zero_points,
    OptionalTensor const& pre_scale, OptionalTensor const& bias, OptionalTensor const& norm_weight,
    double norm_eps, bool silu_mul, OptionalTensor const& residual)
{
    return run("river_trt_cuda::fused_linear", x, use_river, weight, qweight, scales, zero_points,
        pre_scale, bias, {norm_weight, norm_eps, silu_mul, residual});
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
}

TORCH_LIBRARY_IMPL(river_trt_cuda, RIVER_DISPATCH, library)
{
    library.impl("linear", TORCH_FN(linear));
    library.impl("fused_linear", TORCH_FN(fused_linear));
}

TORCH_LIBRARY_IMPL(river_trt, RIVER_DISPATCH, library)
{
    library.impl("linear", TORCH_FN(linear));
}

} // namespace river::torch_ops
