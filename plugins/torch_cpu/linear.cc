// river_trt_cpu::linear: each row through the bank that its flag names. Weights in panels (kernels.h).
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "checks.h"

namespace river::torch_cpu
{
namespace
{

constexpr char const* kOp = "river_trt_cpu::linear";

Tensor linear(Tensor const& x, OptionalTensor const& use_river, OptionalTensor const& weight,
    OptionalTensor const& qweight, OptionalTensor const& scales, OptionalTensor const& zero_points,
    OptionalTensor const& pre_scale, OptionalTensor const& bias, int64_t outputs, bool rounds)
{
    TORCH_CHECK(x.dim() == 3, kOp, ": x is ", x.sizes(), ", but must be [batch, seq, K]");
    constexpr int64_t kMostOutputs = int64_t{1} << 30;
    TORCH_CHECK(x.size(2) >= 1 && outputs >= 1 && outputs <= kMostOutputs, kOp, ": x is ",
        x.sizes(), " for ", outputs, " outputs, and both must have values");
    TORCH_CHECK(weight.has_value() || qweight.has_value(), kOp, ": neither bank is given");
    TORCH_CHECK(use_river.has_value() == (weight.has_value() && qweight.has_value()), kOp,
        ": use_river chooses between two banks, and is given with both or not at all");
    int64_t const batch = x.size(0), seq = x.size(1), k = x.size(2);
    int64_t const columns = kPanel, panels = (outputs + columns - 1) / columns;
    Linear linear;
    linear.inputs = unsigned_size(k);
    linear.outputs = unsigned_size(outputs);
    linear.panels = unsigned_size(panels);
    DensePanels& backbone = linear.banks[kBackbone].dense;
    backbone.inputs = linear.inputs;
    backbone.single = data<float>(kOp, "weight", weight, {panels, k, columns});
    linear.bias = data<float>(kOp, "bias", bias, {panels * columns});
    linear.banks[kRiver].pre_scale = data<float>(kOp, "pre_scale", pre_scale, {k});
    if (qweight.has_value())
    {
        TORCH_CHECK(qweight->dim() == 4 && scales.has_value(), kOp, ": qweight is ",
            qweight->sizes(),
            ", but must be [panels, groups, group_size / 4, 8 * bits], with scales");
        int64_t const group_size = 4 * qweight->size(2), bits = qweight->size(3) / 8;
        TORCH_CHECK((bits == 4 || bits == 8) && group_size > 0 && group_size % 32 == 0
                && unsigned_size(group_size) <= kMaxGroup,
            kOp, ": groups of ", group_size, " codes of ", bits, " bits; there are kernels for ",
            "32, 64, 96 and 128 codes of 4 and 8 bits");
        QuantisedPanels& river = linear.banks[kRiver].quantised;
        river.inputs = linear.inputs;
        river.group_size = unsigned_size(group_size);
        river.bits = static_cast<int>(bits);
        int64_t const groups = static_cast<int64_t>(river.groups());
        river.codes =
            data<uint8_t>(kOp, "qweight", qweight, {panels, groups, group_size / 4, 8 * bits});
        river.scales = data<float>(kOp, "scales", scales, {panels, groups, columns});
        river.zero_points =
            data<uint8_t>(kOp, "zero_points", zero_points, {panels, groups, columns});
    }
    Tensor const rows = x.contiguous();
    Tensor y = at::empty({batch, seq, outputs}, x.options());
    run_linear(kernels(), linear, rounds, data<bool>(kOp, "use_river", use_river, {batch, seq}),
        data<float>(kOp, "x", rows, {batch, seq, k}), unsigned_size(batch * seq),
        y.mutable_data_ptr<float>(), pool(), scratch());
    return y;
}

} // namespace

TORCH_LIBRARY_FRAGMENT(river_trt_cpu, library)
{
    library.def(
        "linear(Tensor x, Tensor? use_river, Tensor? weight, Tensor? qweight, Tensor? scales, "
        "Tensor? zero_points, Tensor? pre_scale, Tensor? bias, int outputs, bool rounds) -> "
        "Tensor");
}
TORCH_LIBRARY_IMPL(river_trt_cpu, CPU, library)
{
    library.impl("linear", TORCH_FN(linear));
}

} // namespace river::torch_cpu
