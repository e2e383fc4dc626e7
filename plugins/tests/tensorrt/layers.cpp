#include "layers.h"

namespace layers
{
namespace
{
constexpr int64_t kK = 72, kN = 48, kGROUPS = 3, kHIDDEN = 64;
constexpr DataType kINT = DataType::kINT32, kFLOAT = DataType::kFLOAT, kHALF = DataType::kHALF;

Layer linearByFlag(DataType t)
{
    Layer layer{"RiverLinear", "by flag", {}, {}, {}, 0};
    layer.fields.add("group_size", int32_t{kGROUP});
    layer.inputs = {{"x", {kBATCH, kSEQ, kK}, t}, {"use_river", {kBATCH, kSEQ}, kINT},
        {"weight", {kN, kK}, t}, {"qweight", {kN, kGROUPS * kGROUP / 8}, kINT},
        {"scales", {kN, kGROUPS}, kHALF}};
    layer.outputs = {{"y", {kBATCH, kSEQ, kN}, t}};
    return layer;
}

Layer linearWithEverything(DataType t)
{
    Layer layer = linearByFlag(t);
    layer.form = "zero points, pre_scale, bias, norm, residual";
    layer.fields.add("zero_points", 1)
        .add("pre_scale", 1)
        .add("bias", 1)
        .add("norm", 1)
        .add("norm_eps", kNORM_EPS);
    layer.fields.add("residual", 1).add("programmatic", 1).add("prefill", 1);
    for (Tensor const& tensor :
        std::vector<Tensor>{{"zero_points", {kN * kGROUPS / 4}, kINT}, {"pre_scale", {kK}, kHALF},
            {"bias", {kN}, t}, {"norm_weight", {kK}, t}, {"residual", {kBATCH, kSEQ, kN}, t}})
        layer.inputs.push_back(tensor);
    return layer;
}

Layer linearSiluMul(DataType t)
{
    Layer layer = linearByFlag(t);
    layer.form = "silu_mul";
    layer.fields.add("silu_mul", int64_t{1}); // as an ONNX parser may hand it over
    layer.outputs[0].sizes[2] = kN / 2;
    return layer;
}

Layer linearOneBank(DataType t, int32_t banks)
{
    Layer layer{"RiverLinear", banks == 1 ? "backbone" : "river", {},
        {{"x", {kBATCH, kSEQ, kK}, t}}, {}, 0};
    layer.fields.add("banks", banks);
    if (banks == 1)
        layer.inputs.push_back({"weight", {kN, kK}, t});
    else
    {
        layer.fields.add("group_size", int32_t{kGROUP});
        layer.inputs.push_back({"qweight", {kN, kGROUPS * kGROUP / 8}, kINT});
        layer.inputs.push_back({"scales", {kN, kGROUPS}, kHALF});
    }
    layer.outputs = {{"y", {kBATCH, kSEQ, kN}, t}};
    return layer;
}

Layer gate(DataType t, int32_t index, bool full)
{
    Layer layer{"RiverGate",
        "layer " + std::to_string(index) + (full ? ", residual, direction" : ""), {}, {}, {},
        index};
    layer.fields.add("layer", index).add("num_layers", int32_t{kLAYERS});
    std::vector<int64_t> const rows{kBATCH, kSEQ}, hidden{kBATCH, kSEQ, kHIDDEN};
    layer.inputs = {{"h_in", hidden, t}, {"delta", hidden, t}};
    if (full)
    {
        layer.fields.add("residual", 1).add("direction", 1).add("programmatic", 1);
        layer.inputs.push_back({"residual", hidden, t});
        layer.inputs.push_back({"directions", {kLAYERS, kHIDDEN}, kFLOAT});
        layer.inputs.push_back({"use_directions", {}, kINT});
        layer.outputs.push_back({"h_out", hidden, t});
    }
    layer.inputs.push_back({"tau", {kLAYERS}, kFLOAT});
    if (index < kLAYERS)
        layer.inputs.push_back({"pinned", {kLAYERS}, kINT});
    layer.inputs.push_back({"scope", {1}, kINT});
    if (index > 1)
    {
        layer.inputs.push_back({"exited", rows, kINT});
        layer.inputs.push_back({"exit_layer", rows, kINT});
    }
    layer.outputs.push_back({"exited_out", rows, kINT});
    layer.outputs.push_back({"exit_layer_out", rows, kINT});
    if (index < kLAYERS)
        layer.outputs.push_back({"use_river", rows, kINT});
    return layer;
}

Layer attention(DataType t, bool packed, bool rotary)
{
    Layer layer{"RiverAttention",
        std::string(packed ? "packed" : "q, k, v") + (rotary ? "" : ", no rotary"), {}, {}, {}, 0};
    layer.fields.add("num_heads", int32_t{kHEADS})
        .add("num_kv_heads", int32_t{kKV_HEADS})
        .add("scale", kSCALE);
    std::vector<int64_t> const cache{kBATCH, kKV_HEADS, kCAPACITY, kHEAD_DIM};
    if (packed)
        layer.inputs = {{"qkv", {kBATCH, kSEQ, (kHEADS + 2 * kKV_HEADS) * kHEAD_DIM}, t}};
    else
    {
        layer.fields.add("packed_qkv", 0)
            .add("aliased_caches", rotary ? 1 : 0)
            .add("window", kWINDOW)
            .add("softcap", kSOFTCAP)
            .add("programmatic", 1);
        layer.inputs = {{"q", {kBATCH, kSEQ, kHEADS * kHEAD_DIM}, t},
            {"k", {kBATCH, kSEQ, kKV_HEADS * kHEAD_DIM}, t},
            {"v", {kBATCH, kSEQ, kKV_HEADS * kHEAD_DIM}, t}};
    }
    layer.inputs.push_back({"k_cache", cache, t});
    layer.inputs.push_back({"v_cache", cache, t});
    layer.inputs.push_back({"past_lengths", {kBATCH}, kINT});
    if (rotary)
    {
        layer.inputs.push_back({"rotary_cos", {128, kHEAD_DIM / 2}, kFLOAT});
        layer.inputs.push_back({"rotary_sin", {128, kHEAD_DIM / 2}, kFLOAT});
    }
    else
        layer.fields.add("rotary", 0);
    layer.outputs = {{"out", {kBATCH, kSEQ, kHEADS * kHEAD_DIM}, t}, {"k_cache_out", cache, t},
        {"v_cache_out", cache, t}};
    return layer;
}

} // namespace

std::vector<Layer> everyLayer(DataType activation)
{
    return {linearByFlag(activation), linearWithEverything(activation), linearSiluMul(activation),
        linearOneBank(activation, 1), linearOneBank(activation, 2), gate(activation, 1, false),
        gate(activation, 3, true), gate(activation, int32_t{kLAYERS}, false),
        attention(activation, true, true), attention(activation, false, true),
        attention(activation, false, false)};
}

std::vector<int64_t> resolve(std::vector<int64_t> sizes, std::vector<int64_t> const& freeSizes)
{
    for (int64_t& size : sizes)
    {
        if (size < 0)
            size = freeSizes.at(static_cast<size_t>(-1 - size));
    }
    return sizes;
}

std::vector<DynamicPluginTensorDesc> buildDescriptions(std::vector<Tensor> const& tensors,
    std::vector<int64_t> const& smallest, std::vector<int64_t> const& largest)
{
    std::vector<DynamicPluginTensorDesc> descriptions;
    for (Tensor const& tensor : tensors)
    {
        DynamicPluginTensorDesc one{};
        one.desc = host::describe(resolve(tensor.sizes, {-1, -1, -1}), tensor.type);
        one.min = host::makeDims(resolve(tensor.sizes, smallest));
        one.max = host::makeDims(resolve(tensor.sizes, largest));
        one.opt = one.min;
        descriptions.push_back(one);
    }
    return descriptions;
}

std::vector<PluginTensorDesc> runDescriptions(
    std::vector<Tensor> const& tensors, std::vector<int64_t> const& freeSizes)
{
    std::vector<PluginTensorDesc> descriptions;
    for (Tensor const& tensor : tensors)
        descriptions.push_back(host::describe(resolve(tensor.sizes, freeSizes), tensor.type));
    return descriptions;
}

} // namespace layers
