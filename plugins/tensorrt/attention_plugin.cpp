#include "attention_plugin.h"

namespace river::trt
{
using nvinfer1::DimensionOperation;
using nvinfer1::Dims;
using nvinfer1::DimsExprs;
using nvinfer1::PluginTensorDesc;

std::vector<Attribute> AttentionPlugin::attributes()
{
    constexpr auto kInt = Attribute::Kind::kInt;
    constexpr auto kFloat = Attribute::Kind::kFloat;
    constexpr auto kRequired = Attribute::Need::kRequired;
    constexpr auto kOptional = Attribute::Need::kOptional;
    return {
        {"num_heads", kInt, kRequired, &num_heads_},
        {"num_kv_heads", kInt, kRequired, &num_kv_heads_},
        {"scale", kFloat, kRequired, &scale_},
        {"packed_qkv", kInt, kOptional, &packed_qkv_},
        {"rotary", kInt, kOptional, &rotary_},
        {"aliased_caches", kInt, kOptional, &aliased_caches_},
        {"window", kInt, kOptional, &window_},
        {"softcap", kFloat, kOptional, &softcap_},
        {"programmatic", kInt, kOptional, &programmatic_},
    };
}

void AttentionPlugin::check_attributes() const
{
    require_range("num_kv_heads", num_kv_heads_, 1, 65535);
    require_range("num_heads", num_heads_, 1, 65535);
    if (num_heads_ % num_kv_heads_ != 0)
        throw Invalid(format("num_heads = %d, but must be a multiple of num_kv_heads = %d",
            int(num_heads_), int(num_kv_heads_)));
    if (!(scale_ > 0.0F))
        throw Invalid(format("scale = %g, but must be above 0", double(scale_)));
    require_range("window", window_, 0, INT32_MAX);
    if (softcap_ < 0.0F)
        throw Invalid(format("softcap = %g, but must be 0 (none) or above", double(softcap_)));
    for (auto const& [name, value] : {std::pair{"packed_qkv", packed_qkv_}, {"rotary", rotary_},
             {"aliased_caches", aliased_caches_}, {"programmatic", programmatic_}})
        require_choice(name, value, {0, 1});
}

Signature AttentionPlugin::signature() const
{
    Signature tensors;
    if (packed_qkv_ != 0)
        tensors.inputs = {{"qkv", TypeRule::kActivation}};
    else
        tensors.inputs = {{"q", TypeRule::kActivation}, {"k", TypeRule::kActivation},
            {"v", TypeRule::kActivation}};
    tensors.inputs.push_back({"k_cache", TypeRule::kActivation});
    tensors.inputs.push_back({"v_cache", TypeRule::kActivation});
    tensors.inputs.push_back({"past_lengths", TypeRule::kInt32});
    if (rotary_ != 0)
    {
        tensors.inputs.push_back({"rotary_cos", TypeRule::kFloat});
        tensors.inputs.push_back({"rotary_sin", TypeRule::kFloat});
    }
    tensors.outputs = {{"out", TypeRule::kActivation}, {"k_cache_out", TypeRule::kActivation},
        {"v_cache_out", TypeRule::kActivation}};
    return tensors;
}

void AttentionPlugin::check_shapes(Dims const* inputs, Dims const* outputs) const
{
    int32_t const cache = cache_input();
    require_rank("k_cache", inputs[cache], 4, "[batch, num_kv_heads, capacity, head_dim]");
    int64_t const head_dim = require_static("k_cache", inputs[cache], 3, "head_dim");
    if (head_dim % 8 != 0 || head_dim > 256)
        throw Invalid(format("k_cache is %s, but head_dim must be a multiple of 8 and at most 256",
            shape_text(inputs[cache]).c_str()));
    int64_t const batch = inputs[0].d[0], seq = inputs[0].d[1], capacity = inputs[cache].d[2];
    std::string const why = format("num_heads = %d, num_kv_heads = %d, head_dim = %lld",
        int(num_heads_), int(num_kv_heads_), static_cast<long long>(head_dim));
    int64_t const width = num_heads_ * head_dim, kv_width = num_kv_heads_ * head_dim;
    if (packed_qkv_ != 0)
        require_shape("qkv", inputs[0], {batch, seq, width + 2 * kv_width}, why);
    else
    {
        require_shape("q", inputs[0], {batch, seq, width}, why);
        require_shape("k", inputs[1], {batch, seq, kv_width}, why);
        require_shape("v", inputs[2], {batch, seq, kv_width}, why);
    }
    require_shape("k_cache", inputs[cache], {batch, num_kv_heads_, capacity, head_dim}, why);
    require_shape("v_cache", inputs[cache + 1], {batch, num_kv_heads_, capacity, head_dim}, why);
    require_shape("past_lengths", inputs[cache + 2], {batch}, why);
    if (batch > 65535)
        throw Invalid(format(
            "k_cache is %s, but batch must be at most 65535", shape_text(inputs[cache]).c_str()));
    if (rotary_ != 0)
    {
        Dims const& cos = inputs[cache + 3];
        require_rank("rotary_cos", cos, 2, "[positions, R / 2]");
        int64_t const half = require_static("rotary_cos", cos, 1, "R / 2");
        if (2 * half > head_dim)
            throw Invalid(format("rotary_cos is %s, but R / 2 must be at most head_dim / 2: %s",
                shape_text(cos).c_str(), why.c_str()));
        require_shape("rotary_sin", inputs[cache + 4], {cos.d[0], half}, why);
    }
    require_shape("out", outputs[0], {batch, seq, width}, why);
    require_shape("k_cache_out", outputs[1], {batch, num_kv_heads_, capacity, head_dim}, why);
    require_shape("v_cache_out", outputs[2], {batch, num_kv_heads_, capacity, head_dim}, why);
}

int32_t AttentionPlugin::getOutputShapes(DimsExprs const* inputs, int32_t nbInputs,
    DimsExprs const*, int32_t nbShapeInputs, DimsExprs* outputs, int32_t nbOutputs,
    nvinfer1::IExprBuilder& builder) noexcept
{
    return guard([&]
    {
        require_counts(signature(), nbInputs + nbShapeInputs, nbOutputs);
        DimsExprs const& kCache = inputs[cache_input()];
        if (inputs[0].nbDims != 3 || kCache.nbDims != 4)
            throw Invalid(format(
                "the first input has %d dimensions and k_cache %d, but they must have 3 and 4",
                int(inputs[0].nbDims), int(kCache.nbDims)));
        outputs[0] = inputs[0];
        outputs[0].d[2] = builder.operation(
            DimensionOperation::kPROD, *kCache.d[3], *builder.constant(num_heads_));
        outputs[1] = kCache;
        outputs[2] = inputs[cache_input() + 1];
    });
}

int32_t AttentionPlugin::getAliasedInput(int32_t outputIndex) noexcept
{
    return outputIndex == 0 || aliased_caches_ == 0 ? -1 : cache_input() + outputIndex - 1;
}

AttentionParams AttentionPlugin::params(
    Dims const& q, Dims const& cache, Dims const* rotary, nvinfer1::DataType type) const
{
    AttentionParams p;
    p.type = activation_type(type);
    p.programmatic = programmatic_ != 0;
    p.batch = size32(q.d[0]);
    p.seq = size32(q.d[1]);
    p.num_heads = num_heads_;
    p.num_kv_heads = num_kv_heads_;
    p.head_dim = size32(cache.d[3]);
    p.capacity = size32(cache.d[2]);
    p.rotary_dim = rotary != nullptr ? size32(2 * rotary->d[1]) : 0;
    p.num_positions = rotary != nullptr ? size32(rotary->d[0]) : p.capacity;
    p.scale = scale_;
    p.window = window_;
    p.softcap = softcap_;
    p.q_stride =
        packed_qkv_ != 0 ? (num_heads_ + 2 * num_kv_heads_) * p.head_dim : num_heads_ * p.head_dim;
    p.k_stride = packed_qkv_ != 0 ? p.q_stride : num_kv_heads_ * p.head_dim;
    p.v_stride = p.k_stride;
    return p;
}

void AttentionPlugin::prepare(PluginTensorDesc const* inputs)
{
    int32_t const cache = cache_input();
    Dims const* const rotary = rotary_ != 0 ? &inputs[cache + 3].dims : nullptr;
    AttentionParams const p = params(inputs[0].dims, inputs[cache].dims, rotary, inputs[0].type);
    workspace_.prepare(attention_workspace_bytes(p), attention_counter_bytes(p));
}

int32_t AttentionPlugin::enqueue(PluginTensorDesc const* inputDesc, PluginTensorDesc const*,
    void const* const* inputs, void* const* outputs, void*, cudaStream_t stream) noexcept
{
    return guard([&]
    {
        int32_t const cache = cache_input();
        AttentionParams p = params(inputDesc[0].dims, inputDesc[cache].dims,
            rotary_ != 0 ? &inputDesc[cache + 3].dims : nullptr, inputDesc[0].type);
        size_t const cache_bytes = size_t{2} * static_cast<size_t>(p.batch)
            * static_cast<size_t>(p.num_kv_heads) * static_cast<size_t>(p.capacity)
            * static_cast<size_t>(p.head_dim);
        for (int32_t i = 0; i < 2; ++i)
        {
            if (outputs[1 + i] == inputs[cache + i])
                continue;
            require_cuda(cudaMemcpyAsync(outputs[1 + i], inputs[cache + i], cache_bytes,
                             cudaMemcpyDeviceToDevice, stream),
                "copying the cache");
            p.programmatic = false; // old slots are read before the wait
        }
        p.q = inputs[0];
        if (packed_qkv_ != 0)
        {
            auto const* const first = static_cast<uint16_t const*>(inputs[0]); // T has two bytes
            p.k = first + static_cast<int64_t>(num_heads_) * p.head_dim;
            p.v = first + static_cast<int64_t>(num_heads_ + num_kv_heads_) * p.head_dim;
        }
        else
        {
            p.k = inputs[1];
            p.v = inputs[2];
        }
        p.k_cache = outputs[1];
        p.v_cache = outputs[2];
        p.past_lengths = static_cast<int32_t const*>(inputs[cache + 2]);
        if (rotary_ != 0)
        {
            p.rotary_cos = static_cast<float const*>(inputs[cache + 3]);
            p.rotary_sin = static_cast<float const*>(inputs[cache + 4]);
        }
        p.out = outputs[0];
        p.workspace = workspace_.data();
        p.workspace_bytes = workspace_.bytes();
        require_launched(launch_attention(p, stream), explain_attention(p));
    });
}

} // namespace river::trt
