#include "layers.h"

namespace layers
{
namespace
{
constexpr int64_t kK = 72, kN = 48, kGroups = 3, kHidden = 64;
constexpr DataType kInt = DataType::kINT32, kFLOAT = DataType::kFLOAT, kHALF = DataType::kHALF;

Layer linear_by_flag(DataType t)
{
    Layer layer{"RiverLinear", "by flag", {}, {}, {}, 0};
    layer.fields.add("group_size", int32_t{kGroup});
    layer.inputs = {{"x", {kBatch, kSeq, kK}, t}, {"use_river", {kBatch, kSeq}, kInt},
        {"weight", {kN, kK}, t}, {"qweight", {kN, kGroups * kGroup / 8}, kInt},
        {"scales", {kN, kGroups}, kHALF}};
    layer.outputs = {{"y", {kBatch, kSeq, kN}, t}};
    return layer;
}

Layer linear_with_everything(DataType t)
{
    Layer layer = linear_by_flag(t);
    layer.form = "zero points, pre_scale, bias, norm, residual";
    layer.fields.add("zero_points", 1)
        .add("pre_scale", 1)
        .add("bias", 1)
        .add("norm", 1)
        .add("norm_eps", kNormEps);
    layer.fields.add("residual", 1).add("programmatic", 1).add("prefill", 1);
    for (Tensor const& tensor :
        std::vector<Tensor>{{"zero_points", {kN * kGroups / 4}, kInt}, {"pre_scale", {kK}, kHALF},
            {"bias", {kN}, t}, {"norm_weight", {kK}, t}, {"residual", {kBatch, kSeq, kN}, t}})
        layer.inputs.push_back(tensor);
    return layer;
}

Layer linear_silu_mul(DataType t)
{
    Layer layer = linear_by_flag(t);
    layer.form = "silu_mul";
    layer.fields.add("silu_mul", int64_t{1}); // as an ONNX parser may hand it over
    layer.outputs[0].sizes[2] = kN / 2;
    return layer;
}

Layer linear_one_bank(DataType t, int32_t banks)
{
    Layer layer{"RiverLinear", banks == 1 ? "backbone" : "river", {},
        {{"x", {kBatch, kSeq, kK}, t}}, {}, 0};
    layer.fields.add("banks", banks);
    if (banks == 1)
        layer.inputs.push_back({"weight", {kN, kK}, t});
    else
    {
        layer.fields.add("group_size", int32_t{kGroup});
        layer.inputs.push_back({"qweight", {kN, kGroups * kGroup / 8}, kInt});
        layer.inputs.push_back({"scales", {kN, kGroups}, kHALF});
    }
    layer.outputs = {{"y", {kBatch, kSeq, kN}, t}};
    return layer;
}

Layer gate(DataType t, int32_t index, bool full)
{
    Layer layer{"RiverGate",
        "layer " + std::to_string(index) + (full ? ", residual, direction" : ""), {}, {}, {},
        index};
    layer.fields.add("layer", index).add("num_layers", int32_t{kLayers});
    std::vector<int64_t> const rows{kBatch, kSeq}, hidden{kBatch, kSeq, kHidden};
    layer.inputs = {{"h_in", hidden, t}, {"delta", hidden, t}};
    if (full)
    {
        layer.fields.add("residual", 1).add("direction", 1).add("programmatic", 1);
        layer.inputs.push_back({"residual", hidden, t});
        layer.inputs.push_back({"directions", {kLayers, kHidden}, kFLOAT});
        layer.inputs.push_back({"use_directions", {}, kInt});
        layer.outputs.push_back({"h_out", hidden, t});
    }
    layer.inputs.push_back({"tau", {kLayers}, kFLOAT});
    if (index < kLayers)
        layer.inputs.push_back({"pinned", {kLayers}, kInt});
    layer.inputs.push_back({"scope", {1}, kInt});
    if (index > 1)
    {
        layer.inputs.push_back({"exited", rows, kInt});
        layer.inputs.push_back({"exit_layer", rows, kInt});
    }
    layer.outputs.push_back({"exited_out", rows, kInt});
    layer.outputs.push_back({"exit_layer_out", rows, kInt});
    if (index < kLayers)
        layer.outputs.push_back({"use_river", rows, kInt});
    return layer;
}

Layer attention(DataType t, bool packed, bool rotary)
{
    Layer layer{"RiverAttention",
        std::string(packed ? "packed" : "q, k, v") + (rotary ? "" : ", no rotary"), {}, {}, {}, 0};
    layer.fields.add("num_heads", int32_t{kHeads})
        .add("num_kv_heads", int32_t{kKvHeads})
        .add("scale", kScale);
    std::vector<int64_t> const cache{kBatch, kKvHeads, kCapacity, kHeadDim};
    if (packed)
        layer.inputs = {{"qkv", {kBatch, kSeq, (kHeads + 2 * kKvHeads) * kHeadDim}, t}};
    else
    {
        layer.fields.add("packed_qkv", 0)
            .add("aliased_caches", rotary ? 1 : 0)
            .add("window", kWindow)
            .add("softcap", kSoftcap)
            .add("programmatic", 1);
        layer.inputs = {{"q", {kBatch, kSeq, kHeads * kHeadDim}, t},
            {"k", {kBatch, kSeq, kKvHeads * kHeadDim}, t},
            {"v", {kBatch, kSeq, kKvHeads * kHeadDim}, t}};
    }
    layer.inputs.push_back({"k_cache", cache, t});
    layer.inputs.push_back({"v_cache", cache, t});
    layer.inputs.push_back({"past_lengths", {kBatch}, kInt});
    if (rotary)
    {
        layer.inputs.push_back({"rotary_cos", {128, kHeadDim / 2}, kFLOAT});
        layer.inputs.push_back({"rotary_sin", {128, kHeadDim / 2}, kFLOAT});
    }
    else
        layer.fields.add("rotary", 0);
    layer.outputs = {{"out", {kBatch, kSeq, kHeads * kHeadDim}, t}, {"k_cache_out", cache, t},
        {"v_cache_out", cache, t}};
    return layer;
}

} // namespace

std::vector<Layer> every_layer(DataType activation)
{
    return {linear_by_flag(activation), linear_with_everything(activation),
        linear_silu_mul(activation), linear_one_bank(activation, 1), linear_one_bank(activation, 2),
        gate(activation, 1, false), gate(activation, 3, true),
        gate(activation, int32_t{kLayers}, false), attention(activation, true, true),
        attention(activation, false, true), attention(activation, false, false)};
}

std::vector<int64_t> resolve(std::vector<int64_t> sizes, std::vector<int64_t> const& free_sizes)
{
    for (int64_t& size : sizes)
    {
        if (size < 0)
            size = free_sizes.at(static_cast<size_t>(-1 - size));
    }
    return sizes;
}

std::vector<DynamicPluginTensorDesc> build_descriptions(std::vector<Tensor> const& tensors,
    std::vector<int64_t> const& smallest, std::vector<int64_t> const& largest)
{
    std::vector<DynamicPluginTensorDesc> descriptions;
    for (Tensor const& tensor : tensors)
    {
        DynamicPluginTensorDesc one{};
        one.desc = host::describe(resolve(tensor.sizes, {-1, -1, -1}), tensor.type);
        one.min = host::make_dims(resolve(tensor.sizes, smallest));
        one.max = host::make_dims(resolve(tensor.sizes, largest));
        one.opt = one.min;
        descriptions.push_back(one);
    }
    return descriptions;
}

std::vector<PluginTensorDesc> run_descriptions(
    std::vector<Tensor> const& tensors, std::vector<int64_t> const& free_sizes)
{
    std::vector<PluginTensorDesc> descriptions;
    for (Tensor const& tensor : tensors)
        descriptions.push_back(host::describe(resolve(tensor.sizes, free_sizes), tensor.type));
    return descriptions;
}

} // namespace layers
