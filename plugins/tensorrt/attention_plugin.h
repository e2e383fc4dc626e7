#pragma once
#include "device_buffer.h"
#include "plugin_base.h"

namespace river::trt
{

// RiverAttention: rotary embedding, K and V into the layer's cache slots, attention over the cache.
//
// inputs, those in brackets where the attribute says so; T is float16 or bfloat16:
//   [qkv]        [batch, seq, (heads + 2 * kv_heads) * D] T             packed_qkv 1
//   [q], [k], [v] [batch, seq, heads * D], [batch, seq, kv_heads * D] T    packed_qkv 0
//   k_cache, v_cache [batch, kv_heads, capacity, D] T
//   past_lengths [batch] int32, tokens already in the cache
//   [rotary_cos], [rotary_sin] [positions, R / 2] float32               rotary 1
// outputs:
//   out [batch, seq, heads * D] T
//   k_cache_out, v_cache_out: the caches with the new tokens
//
// The output caches are the inputs, updated in place: aliased by TensorRT with aliased_caches 1 (the
// default; the builder needs PreviewFeature kALIASED_PLUGIN_IO_10_03 then, and refuses to build
// without it), or by the caller, who binds one address to both. Where the addresses differ all the
// same (TensorRT's copies, the timing of a build) the whole cache is copied first: right, but slow.
class AttentionPlugin final : public PluginBase<AttentionPlugin>
{
public:
    static constexpr char const* kName = "RiverAttention";

    using PluginBase::PluginBase;

    std::vector<Attribute> attributes();
    void check_attributes() const;
    Signature signature() const;
    void check_shapes(nvinfer1::Dims const* inputs, nvinfer1::Dims const* outputs) const;
    void prepare(nvinfer1::PluginTensorDesc const* inputs);

    int32_t getOutputShapes(nvinfer1::DimsExprs const* inputs, int32_t nbInputs,
        nvinfer1::DimsExprs const* shapeInputs, int32_t nbShapeInputs, nvinfer1::DimsExprs* outputs,
        int32_t nbOutputs, nvinfer1::IExprBuilder& builder) noexcept override;
    int32_t getAliasedInput(int32_t outputIndex) noexcept override;
    int32_t enqueue(nvinfer1::PluginTensorDesc const* inputDesc,
        nvinfer1::PluginTensorDesc const* outputDesc, void const* const* inputs,
        void* const* outputs, void* workspace, cudaStream_t stream) noexcept override;

private:
    int32_t cache_input() const // k_cache; v_cache follows
    {
        return packed_qkv_ != 0 ? 1 : 3;
    }
    // From the shapes of the first input and the k_cache, and of rotary_cos where there is one.
    AttentionParams params(nvinfer1::Dims const& q, nvinfer1::Dims const& cache,
        nvinfer1::Dims const* rotary, nvinfer1::DataType type) const;

    int32_t num_heads_{0};
    int32_t num_kv_heads_{0};
    int32_t packed_qkv_{1};
    int32_t rotary_{1};
    int32_t aliased_caches_{1};
    int32_t window_{0};
    int32_t programmatic_{0};
    float scale_{0.0F};
    float softcap_{0.0F};
    DeviceBuffer workspace_;
};

} // namespace river::trt
