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
    constexpr auto kINT = Attribute::Kind::kINT;
    constexpr auto kOPTIONAL = Attribute::Need::kOPTIONAL;
    return {
        {"banks", kINT, kOPTIONAL, &mBanks},
        {"group_size", kINT, kOPTIONAL, &mGroupSize},
        {"zero_points", kINT, kOPTIONAL, &mZeroPoints},
        {"pre_scale", kINT, kOPTIONAL, &mPreScale},
        {"bias", kINT, kOPTIONAL, &mBias},
        {"norm", kINT, kOPTIONAL, &mNorm},
        {"norm_eps", Attribute::Kind::kFLOAT, kOPTIONAL, &mNormEps},
        {"residual", kINT, kOPTIONAL, &mResidual},
        {"silu_mul", kINT, kOPTIONAL, &mSiluMul},
        {"prefill", kINT, kOPTIONAL, &mPrefill},
        {"programmatic", kINT, kOPTIONAL, &mProgrammatic},
    };
}

void LinearPlugin::checkAttributes() const
{
    requireChoice("banks", mBanks, {0, 1, 2});
    requireChoice("prefill", mPrefill, {0, 1});
    for (auto const& [name, value] : {std::pair{"zero_points", mZeroPoints},
             {"pre_scale", mPreScale}, {"bias", mBias}, {"norm", mNorm}, {"residual", mResidual},
             {"silu_mul", mSiluMul}, {"programmatic", mProgrammatic}})
        requireChoice(name, value, {0, 1});
    if (hasRiver())
        requireChoice("group_size", mGroupSize, {32, 64, 128});
    else if (mZeroPoints != 0 || mPreScale != 0 || mGroupSize != 0)
        throw Invalid(
            "zero_points, pre_scale and group_size are the river bank's; banks = 1 has none");
    if (mNorm != 0 && !(mNormEps > 0.0F))
        throw Invalid(format("norm_eps = %g, but norm = 1 needs one above 0", double(mNormEps)));
    if (mSiluMul != 0 && mResidual != 0)
        throw Invalid("silu_mul and residual are for different linears; set one of them");
}

Signature LinearPlugin::signature() const
{
    std::vector<TensorSpec> inputs{{"x", TypeRule::kACTIVATION}};
    auto const add = [&inputs](bool wanted, char const* name, TypeRule type)
    {
        if (wanted)
            inputs.push_back({name, type});
    };
    add(hasBackbone() && hasRiver(), "use_river", TypeRule::kINT32);
    add(hasBackbone(), "weight", TypeRule::kACTIVATION);
    add(hasRiver(), "qweight", TypeRule::kINT32);
    add(hasRiver(), "scales", TypeRule::kHALF);
    add(mZeroPoints != 0, "zero_points", TypeRule::kINT32);
    add(mPreScale != 0, "pre_scale", TypeRule::kHALF);
    add(mBias != 0, "bias", TypeRule::kACTIVATION);
    add(mNorm != 0, "norm_weight", TypeRule::kACTIVATION);
    add(mResidual != 0, "residual", TypeRule::kACTIVATION);
    return {std::move(inputs), {{"y", TypeRule::kACTIVATION}}};
}

int32_t LinearPlugin::weightInput() const
{
    return signature().input(hasBackbone() ? "weight" : "qweight");
}

void LinearPlugin::checkShapes(Dims const* inputs, Dims const* outputs) const
{
    Signature const tensors = signature();
    requireRank("x", inputs[0], 3, "[batch, seq, K]");
    int64_t const batch = inputs[0].d[0], seq = inputs[0].d[1];
    int64_t const k = requireStatic("x", inputs[0], 2, "K");
    if (k % 8 != 0 || k > 131072)
        throw Invalid(format("x is %s, but K must be a multiple of 8 and at most 131072",
            shapeText(inputs[0]).c_str()));
    if (batch > 0 && seq > 0 && batch * seq > 65536)
        throw Invalid(
            format("x is %s, but batch * seq must be at most 65536", shapeText(inputs[0]).c_str()));
    Dims const& weight = inputs[weightInput()];
    char const* const weightName = tensors.at(weightInput()).name;
    requireRank(weightName, weight, 2, "[N, columns]");
    int64_t const n = requireStatic(weightName, weight, 0, "N");
    if (mSiluMul != 0 && n % 2 != 0)
        throw Invalid(format(
            "%s is %s, but silu_mul = 1 needs an even N", weightName, shapeText(weight).c_str()));
    int64_t const groups = hasRiver() ? (k + mGroupSize - 1) / mGroupSize : 0;
    std::string const why = format("N = %lld, K = %lld, groups of %d", static_cast<long long>(n),
        static_cast<long long>(k), int(mGroupSize));
    auto const require = [&](char const* name, std::vector<int64_t> const& expected)
    {
        int32_t const i = tensors.input(name);
        if (i >= 0)
            requireShape(name, inputs[i], expected, why);
    };
    require("use_river", {batch, seq});
    require("weight", {n, k});
    require("qweight", {n, groups * mGroupSize / 8});
    require("scales", {n, groups});
    require("zero_points", {(n * groups + 3) / 4});
    require("pre_scale", {k});
    require("bias", {n});
    require("norm_weight", {k});
    require("residual", {batch, seq, n});
    requireShape("y", outputs[0], {batch, seq, mSiluMul != 0 ? n / 2 : n}, why);
}

int32_t LinearPlugin::getOutputShapes(DimsExprs const* inputs, int32_t nbInputs, DimsExprs const*,
    int32_t nbShapeInputs, DimsExprs* outputs, int32_t nbOutputs,
    nvinfer1::IExprBuilder& builder) noexcept
{
    return guard([&]
    {
        requireCounts(signature(), nbInputs + nbShapeInputs, nbOutputs);
        DimsExprs const& weight = inputs[weightInput()];
        if (inputs[0].nbDims != 3 || weight.nbDims != 2)
            throw Invalid(format("x has %d dimensions and its weight %d, but must have 3 and 2",
                int(inputs[0].nbDims), int(weight.nbDims)));
        outputs[0] = inputs[0];
        outputs[0].d[2] = mSiluMul != 0
            ? builder.operation(DimensionOperation::kFLOOR_DIV, *weight.d[0], *builder.constant(2))
            : weight.d[0];
    });
}

LinearParams LinearPlugin::params(Dims const& x, Dims const& weight, nvinfer1::DataType type) const
{
    LinearParams p;
    p.type = activationType(type);
    p.flag_type = FlagType::kInt32;
    p.banks = static_cast<Banks>(mBanks);
    p.prefill = static_cast<Prefill>(mPrefill);
    p.programmatic = mProgrammatic != 0;
    p.rows = size32(x.d[0] * x.d[1]);
    p.n = size32(weight.d[0]);
    p.k = size32(x.d[2]);
    p.river.group_size = mGroupSize;
    p.norm_eps = mNormEps;
    p.silu_mul = mSiluMul != 0;
    return p;
}

size_t LinearPlugin::getWorkspaceSize(DynamicPluginTensorDesc const* inputs, int32_t,
    DynamicPluginTensorDesc const*, int32_t) const noexcept
{
    size_t bytes = 0;
    guard([&]
    {
        bytes = linear_workspace_bytes(
            params(largest(inputs[0]), largest(inputs[weightInput()]), inputs[0].desc.type));
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
            params(inputDesc[0].dims, inputDesc[weightInput()].dims, inputDesc[0].type);
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
        requireLaunched(launch_linear(p, stream), explain_linear(p));
    });
}

} // namespace river::trt
