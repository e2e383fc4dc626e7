#include "attention_plugin.h"

namespace river::trt
{
using nvinfer1::DimensionOperation;
using nvinfer1::Dims;
using nvinfer1::DimsExprs;
using nvinfer1::PluginTensorDesc;

std::vector<Attribute> AttentionPlugin::attributes()
{
    constexpr auto kINT = Attribute::Kind::kINT;
    constexpr auto kFLOAT = Attribute::Kind::kFLOAT;
    constexpr auto kREQUIRED = Attribute::Need::kREQUIRED;
    constexpr auto kOPTIONAL = Attribute::Need::kOPTIONAL;
    return {
        {"num_heads", kINT, kREQUIRED, &mNumHeads},
        {"num_kv_heads", kINT, kREQUIRED, &mNumKvHeads},
        {"scale", kFLOAT, kREQUIRED, &mScale},
        {"packed_qkv", kINT, kOPTIONAL, &mPackedQkv},
        {"rotary", kINT, kOPTIONAL, &mRotary},
        {"aliased_caches", kINT, kOPTIONAL, &mAliasedCaches},
        {"window", kINT, kOPTIONAL, &mWindow},
        {"softcap", kFLOAT, kOPTIONAL, &mSoftcap},
        {"programmatic", kINT, kOPTIONAL, &mProgrammatic},
    };
}

void AttentionPlugin::checkAttributes() const
{
    requireRange("num_kv_heads", mNumKvHeads, 1, 65535);
    requireRange("num_heads", mNumHeads, 1, 65535);
    if (mNumHeads % mNumKvHeads != 0)
        throw Invalid(format("num_heads = %d, but must be a multiple of num_kv_heads = %d",
            int(mNumHeads), int(mNumKvHeads)));
    if (!(mScale > 0.0F))
        throw Invalid(format("scale = %g, but must be above 0", double(mScale)));
    requireRange("window", mWindow, 0, INT32_MAX);
    if (mSoftcap < 0.0F)
        throw Invalid(format("softcap = %g, but must be 0 (none) or above", double(mSoftcap)));
    for (auto const& [name, value] : {std::pair{"packed_qkv", mPackedQkv}, {"rotary", mRotary},
             {"aliased_caches", mAliasedCaches}, {"programmatic", mProgrammatic}})
        requireChoice(name, value, {0, 1});
}

Signature AttentionPlugin::signature() const
{
    Signature tensors;
    if (mPackedQkv != 0)
        tensors.inputs = {{"qkv", TypeRule::kACTIVATION}};
    else
        tensors.inputs = {{"q", TypeRule::kACTIVATION}, {"k", TypeRule::kACTIVATION},
            {"v", TypeRule::kACTIVATION}};
    tensors.inputs.push_back({"k_cache", TypeRule::kACTIVATION});
    tensors.inputs.push_back({"v_cache", TypeRule::kACTIVATION});
    tensors.inputs.push_back({"past_lengths", TypeRule::kINT32});
    if (mRotary != 0)
    {
        tensors.inputs.push_back({"rotary_cos", TypeRule::kFLOAT});
        tensors.inputs.push_back({"rotary_sin", TypeRule::kFLOAT});
    }
    tensors.outputs = {{"out", TypeRule::kACTIVATION}, {"k_cache_out", TypeRule::kACTIVATION},
        {"v_cache_out", TypeRule::kACTIVATION}};
    return tensors;
}

void AttentionPlugin::checkShapes(Dims const* inputs, Dims const* outputs) const
{
    int32_t const cache = cacheInput();
    requireRank("k_cache", inputs[cache], 4, "[batch, num_kv_heads, capacity, head_dim]");
    int64_t const headDim = requireStatic("k_cache", inputs[cache], 3, "head_dim");
    if (headDim % 8 != 0 || headDim > 256)
        throw Invalid(format("k_cache is %s, but head_dim must be a multiple of 8 and at most 256",
            shapeText(inputs[cache]).c_str()));
    int64_t const batch = inputs[0].d[0], seq = inputs[0].d[1], capacity = inputs[cache].d[2];
    std::string const why = format("num_heads = %d, num_kv_heads = %d, head_dim = %lld",
        int(mNumHeads), int(mNumKvHeads), static_cast<long long>(headDim));
    int64_t const width = mNumHeads * headDim, kvWidth = mNumKvHeads * headDim;
    if (mPackedQkv != 0)
        requireShape("qkv", inputs[0], {batch, seq, width + 2 * kvWidth}, why);
    else
    {
        requireShape("q", inputs[0], {batch, seq, width}, why);
        requireShape("k", inputs[1], {batch, seq, kvWidth}, why);
        requireShape("v", inputs[2], {batch, seq, kvWidth}, why);
    }
    requireShape("k_cache", inputs[cache], {batch, mNumKvHeads, capacity, headDim}, why);
    requireShape("v_cache", inputs[cache + 1], {batch, mNumKvHeads, capacity, headDim}, why);
    requireShape("past_lengths", inputs[cache + 2], {batch}, why);
    if (batch > 65535)
        throw Invalid(format(
            "k_cache is %s, but batch must be at most 65535", shapeText(inputs[cache]).c_str()));
    if (mRotary != 0)
    {
        Dims const& cos = inputs[cache + 3];
        requireRank("rotary_cos", cos, 2, "[positions, R / 2]");
        int64_t const half = requireStatic("rotary_cos", cos, 1, "R / 2");
        if (2 * half > headDim)
            throw Invalid(format("rotary_cos is %s, but R / 2 must be at most head_dim / 2: %s",
                shapeText(cos).c_str(), why.c_str()));
        requireShape("rotary_sin", inputs[cache + 4], {cos.d[0], half}, why);
    }
    requireShape("out", outputs[0], {batch, seq, width}, why);
    requireShape("k_cache_out", outputs[1], {batch, mNumKvHeads, capacity, headDim}, why);
    requireShape("v_cache_out", outputs[2], {batch, mNumKvHeads, capacity, headDim}, why);
}

int32_t AttentionPlugin::getOutputShapes(DimsExprs const* inputs, int32_t nbInputs,
    DimsExprs const*, int32_t nbShapeInputs, DimsExprs* outputs, int32_t nbOutputs,
    nvinfer1::IExprBuilder& builder) noexcept
{
    return guard([&]
    {
        requireCounts(signature(), nbInputs + nbShapeInputs, nbOutputs);
        DimsExprs const& kCache = inputs[cacheInput()];
        if (inputs[0].nbDims != 3 || kCache.nbDims != 4)
            throw Invalid(format(
                "the first input has %d dimensions and k_cache %d, but they must have 3 and 4",
                int(inputs[0].nbDims), int(kCache.nbDims)));
        outputs[0] = inputs[0];
        outputs[0].d[2] = builder.operation(
            DimensionOperation::kPROD, *kCache.d[3], *builder.constant(mNumHeads));
        outputs[1] = kCache;
        outputs[2] = inputs[cacheInput() + 1];
    });
}

int32_t AttentionPlugin::getAliasedInput(int32_t outputIndex) noexcept
{
    return outputIndex == 0 || mAliasedCaches == 0 ? -1 : cacheInput() + outputIndex - 1;
}

AttentionParams AttentionPlugin::params(
    Dims const& q, Dims const& cache, Dims const* rotary, nvinfer1::DataType type) const
{
    AttentionParams p;
    p.type = activationType(type);
    p.programmatic = mProgrammatic != 0;
    p.batch = size32(q.d[0]);
    p.seq = size32(q.d[1]);
    p.num_heads = mNumHeads;
    p.num_kv_heads = mNumKvHeads;
    p.head_dim = size32(cache.d[3]);
    p.capacity = size32(cache.d[2]);
    p.rotary_dim = rotary != nullptr ? size32(2 * rotary->d[1]) : 0;
    p.num_positions = rotary != nullptr ? size32(rotary->d[0]) : p.capacity;
    p.scale = mScale;
    p.window = mWindow;
    p.softcap = mSoftcap;
    p.q_stride =
        mPackedQkv != 0 ? (mNumHeads + 2 * mNumKvHeads) * p.head_dim : mNumHeads * p.head_dim;
    p.k_stride = mPackedQkv != 0 ? p.q_stride : mNumKvHeads * p.head_dim;
    p.v_stride = p.k_stride;
    return p;
}

void AttentionPlugin::prepare(PluginTensorDesc const* inputs)
{
    int32_t const cache = cacheInput();
    Dims const* const rotary = mRotary != 0 ? &inputs[cache + 3].dims : nullptr;
    AttentionParams const p = params(inputs[0].dims, inputs[cache].dims, rotary, inputs[0].type);
    mWorkspace.prepare(attention_workspace_bytes(p), attention_counter_bytes(p));
}

int32_t AttentionPlugin::enqueue(PluginTensorDesc const* inputDesc, PluginTensorDesc const*,
    void const* const* inputs, void* const* outputs, void*, cudaStream_t stream) noexcept
{
    return guard([&]
    {
        int32_t const cache = cacheInput();
        AttentionParams p = params(inputDesc[0].dims, inputDesc[cache].dims,
            mRotary != 0 ? &inputDesc[cache + 3].dims : nullptr, inputDesc[0].type);
        size_t const cacheBytes = size_t{2} * static_cast<size_t>(p.batch)
            * static_cast<size_t>(p.num_kv_heads) * static_cast<size_t>(p.capacity)
            * static_cast<size_t>(p.head_dim);
        for (int32_t i = 0; i < 2; ++i)
        {
            if (outputs[1 + i] == inputs[cache + i])
                continue;
            requireCuda(cudaMemcpyAsync(outputs[1 + i], inputs[cache + i], cacheBytes,
                            cudaMemcpyDeviceToDevice, stream),
                "copying the cache");
            p.programmatic = false; // old slots are read before the wait
        }
        p.q = inputs[0];
        if (mPackedQkv != 0)
        {
            auto const* const first = static_cast<uint16_t const*>(inputs[0]); // T has two bytes
            p.k = first + static_cast<int64_t>(mNumHeads) * p.head_dim;
            p.v = first + static_cast<int64_t>(mNumHeads + mNumKvHeads) * p.head_dim;
        }
        else
        {
            p.k = inputs[1];
            p.v = inputs[2];
        }
        p.k_cache = outputs[1];
        p.v_cache = outputs[2];
        p.past_lengths = static_cast<int32_t const*>(inputs[cache + 2]);
        if (mRotary != 0)
        {
            p.rotary_cos = static_cast<float const*>(inputs[cache + 3]);
            p.rotary_sin = static_cast<float const*>(inputs[cache + 4]);
        }
        p.out = outputs[0];
        p.workspace = mWorkspace.data();
        p.workspace_bytes = mWorkspace.bytes();
        requireLaunched(launch_attention(p, stream), explain_attention(p));
    });
}

} // namespace river::trt
