#include "linear_plugin.h"

namespace river::trt
{
using nvinfer1::DimensionOperation;
using nvinfer1::Dims;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;

std::vector<Attribute> LinearPlugin::attributes()
{
    constexpr auto kInt = Attribute::Kind::kInt;
    constexpr auto kOptional = Attribute::Need::kOptional;
    return {
        {"banks", kInt, kOptional, &banks_},
        {"group_size", kInt, kOptional, &group_size_},
        {"zero_points", kInt, kOptional, &zero_points_},
        {"pre_scale", kInt, kOptional, &pre_scale_},
        {"bias", kInt, kOptional, &bias_},
        {"norm", kInt, kOptional, &norm_},
        {"norm_eps", Attribute::Kind::kFloat, kOptional, &norm_eps_},
        {"residual", kInt, kOptional, &residual_},
        {"silu_mul", kInt, kOptional, &silu_mul_},
        {"prefill", kInt, kOptional, &prefill_},
        {"programmatic", kInt, kOptional, &programmatic_},
    };
}

void LinearPlugin::check_attributes() const
{
    require_choice("banks", banks_, {0, 1, 2});
    require_choice("prefill", prefill_, {0, 1});
    for (auto const& [name, value] : {std::pair{"zero_points", zero_points_},
             {"pre_scale", pre_scale_}, {"bias", bias_}, {"norm", norm_}, {"residual", residual_},
             {"silu_mul", silu_mul_}, {"programmatic", programmatic_}})
        require_choice(name, value, {0, 1});
    if (has_river())
        require_choice("group_size", group_size_, {32, 64, 128});
    else if (zero_points_ != 0 || pre_scale_ != 0 || group_size_ != 0)
        throw Invalid(
            "zero_points, pre_scale and group_size are the river bank's; banks = 1 has none");
    if (norm_ != 0 && !(norm_eps_ > 0.0F))
        throw Invalid(format("norm_eps = %g, but norm = 1 needs one above 0", double(norm_eps_)));
    if (silu_mul_ != 0 && residual_ != 0)
        throw Invalid("silu_mul and residual are for different linears; set one of them");
}

Signature LinearPlugin::signature() const
{
    std::vector<TensorSpec> inputs{{"x", TypeRule::kActivation}};
    auto const add = [&inputs](bool wanted, char const* name, TypeRule type)
    {
        if (wanted)
            inputs.push_back({name, type});
    };
    add(has_backbone() && has_river(), "use_river", TypeRule::kInt32);
    add(has_backbone(), "weight", TypeRule::kActivation);
    add(has_river(), "qweight", TypeRule::kInt32);
    add(has_river(), "scales", TypeRule::kHalf);
    add(zero_points_ != 0, "zero_points", TypeRule::kInt32);
    add(pre_scale_ != 0, "pre_scale", TypeRule::kHalf);
    add(bias_ != 0, "bias", TypeRule::kActivation);
    add(norm_ != 0, "norm_weight", TypeRule::kActivation);
    add(residual_ != 0, "residual", TypeRule::kActivation);
    return {std::move(inputs), {{"y", TypeRule::kActivation}}};
}

int32_t LinearPlugin::weight_input() const
{
    return signature().input(has_backbone() ? "weight" : "qweight");
}

void LinearPlugin::check_shapes(Dims const* inputs, Dims const* outputs) const
{
    Signature const tensors = signature();
    require_rank("x", inputs[0], 3, "[batch, seq, K]");
    int64_t const batch = inputs[0].d[0], seq = inputs[0].d[1];
    int64_t const k = require_static("x", inputs[0], 2, "K");
    if (k % 8 != 0 || k > 131072)
        throw Invalid(format("x is %s, but K must be a multiple of 8 and at most 131072",
            shape_text(inputs[0]).c_str()));
    if (batch > 0 && seq > 0 && batch * seq > 65536)
        throw Invalid(format(
            "x is %s, but batch * seq must be at most 65536", shape_text(inputs[0]).c_str()));
    Dims const& weight = inputs[weight_input()];
    char const* const weight_name = tensors.at(weight_input()).name;
    require_rank(weight_name, weight, 2, "[N, columns]");
    int64_t const n = require_static(weight_name, weight, 0, "N");
    if (silu_mul_ != 0 && n % 2 != 0)
        throw Invalid(format(
            "%s is %s, but silu_mul = 1 needs an even N", weight_name, shape_text(weight).c_str()));
    int64_t const groups = has_river() ? (k + group_size_ - 1) / group_size_ : 0;
    std::string const why = format("N = %lld, K = %lld, groups of %d", static_cast<long long>(n),
        static_cast<long long>(k), int(group_size_));
    auto const require = [&](char const* name, std::vector<int64_t> const& expected)
    {
        int32_t const i = tensors.input(name);
        if (i >= 0)
            require_shape(name, inputs[i], expected, why);
    };
    require("use_river", {batch, seq});
    require("weight", {n, k});
    require("qweight", {n, groups * group_size_ / 8});
    require("scales", {n, groups});
    require("zero_points", {(n * groups + 3) / 4});
    require("pre_scale", {k});
    require("bias", {n});
    require("norm_weight", {k});
    require("residual", {batch, seq, n});
    require_shape("y", outputs[0], {batch, seq, silu_mul_ != 0 ? n / 2 : n}, why);
}

int32_t LinearPlugin::getOutputShapes(DimsExprs const* inputs, int32_t nbInputs, DimsExprs const*,
    int32_t nbShapeInputs, DimsExprs* outputs, int32_t nbOutputs,
    nvinfer1::IExprBuilder& builder) noexcept
{
    return guard([&]
    {
        require_counts(signature(), nbInputs + nbShapeInputs, nbOutputs);
        DimsExprs const& weight = inputs[weight_input()];
        if (inputs[0].nbDims != 3 || weight.nbDims != 2)
            throw Invalid(format("x has %d dimensions and its weight %d, but must have 3 and 2",
                int(inputs[0].nbDims), int(weight.nbDims)));
        outputs[0] = inputs[0];
        outputs[0].d[2] = silu_mul_ != 0
            ? builder.operation(DimensionOperation::kFLOOR_DIV, *weight.d[0], *builder.constant(2))
            : weight.d[0];
    });
}

LinearParams LinearPlugin::params(Dims const& x, Dims const& weight, nvinfer1::DataType type) const
{
    LinearParams p;
    p.type = activation_type(type);
    p.flag_type = FlagType::kInt32;
    p.banks = static_cast<Banks>(banks_);
    p.prefill = static_cast<Prefill>(prefill_);
    p.programmatic = programmatic_ != 0;
    p.rows = size32(x.d[0] * x.d[1]);
    p.n = size32(weight.d[0]);
    p.k = size32(x.d[2]);
    p.river.group_size = group_size_;
    p.norm_eps = norm_eps_;
    p.silu_mul = silu_mul_ != 0;
    return p;
}

size_t LinearPlugin::getWorkspaceSize(DynamicPluginTensorDesc const* inputs, int32_t,
    DynamicPluginTensorDesc const*, int32_t) const noexcept
{
    size_t bytes = 0;
    guard([&]
    {
        bytes = linear_workspace_bytes(
            params(largest(inputs[0]), largest(inputs[weight_input()]), inputs[0].desc.type));
    });
    return bytes;
}

int32_t LinearPlugin::enqueue(PluginTensorDesc const* inputDesc, PluginTensorDesc const*,
    void const* const* inputs, void* const* outputs, void* workspace, cudaStream_t stream) noexcept
{
    return guard([&]
    {
        Signature const tensors = signature();
        auto const pointer = [&](char const* name) -> void const*
        {
            int32_t const i = tensors.input(name);
            return i < 0 ? nullptr : inputs[i];
        };
        LinearParams p =
            params(inputDesc[0].dims, inputDesc[weight_input()].dims, inputDesc[0].type);
        p.x = inputs[0];
        p.use_river = pointer("use_river");
        p.weight = pointer("weight");
        p.river.qweight = pointer("qweight");
        p.river.scales = pointer("scales");
        p.river.zero_points = pointer("zero_points");
        p.river.pre_scale = pointer("pre_scale");
        p.bias = pointer("bias");
        p.norm_weight = pointer("norm_weight");
        p.residual = pointer("residual");
        p.y = outputs[0];
        p.workspace = workspace;
        p.workspace_bytes = linear_workspace_bytes(p);
        require_launched(launch_linear(p, stream), explain_linear(p));
    });
}

} // namespace river::trt
