#pragma once
#include "launch.h"
#include "plugin_base.h"

namespace river::trt
{

// RiverLinear: each row of x through the bank that its flag names, with what decoding fuses around it.
//
// inputs, those in brackets where the attribute says so:
//   x            [batch, seq, K]  float16 or bfloat16, here called T
//   [use_river]  [batch, seq] int32                         banks 0
//   [weight]     [N, K] T, the backbone bank                banks 0, 1
//   [qweight]    [N, groups * group_size / 8] int32: the dialect's bytes, four to an int32    banks 0, 2
//   [scales]     [N, groups] float16                        banks 0, 2
//   [zero_points] [ceil(N * groups / 4)] int32: the dialect's bytes, padded   zero_points 1
//   [pre_scale]  [K] float16, multiplies the river's x      pre_scale 1
//   [bias]       [N] T                                      bias 1
//   [norm_weight] [K] T: x <- rms_norm(x) before either bank    norm 1, with norm_eps
//   [residual]   [batch, seq, N] T, added to y              residual 1
// output: y [batch, seq, N] T; with silu_mul 1 [batch, seq, N / 2]: silu(first half) * second half
class LinearPlugin final : public PluginBase<LinearPlugin>
{
public:
    static constexpr char const* kName = "RiverLinear";

    using PluginBase::PluginBase;

    std::vector<Attribute> attributes();
    void check_attributes() const;
    Signature signature() const;
    void check_shapes(nvinfer1::Dims const* inputs, nvinfer1::Dims const* outputs) const;

    int32_t getOutputShapes(nvinfer1::DimsExprs const* inputs, int32_t nbInputs,
        nvinfer1::DimsExprs const* shapeInputs, int32_t nbShapeInputs, nvinfer1::DimsExprs* outputs,
        int32_t nbOutputs, nvinfer1::IExprBuilder& builder) noexcept override;
    size_t getWorkspaceSize(nvinfer1::DynamicPluginTensorDesc const* inputs, int32_t nbInputs,
        nvinfer1::DynamicPluginTensorDesc const* outputs,
        int32_t nbOutputs) const noexcept override;
    int32_t enqueue(nvinfer1::PluginTensorDesc const* inputDesc,
        nvinfer1::PluginTensorDesc const* outputDesc, void const* const* inputs,
        void* const* outputs, void* workspace, cudaStream_t stream) noexcept override;

private:
    bool has_backbone() const
    {
        return banks_ != static_cast<int32_t>(Banks::kRiver);
    }
    bool has_river() const
    {
        return banks_ != static_cast<int32_t>(Banks::kBackbone);
    }
    // Position of the input whose first dimension is N.
    int32_t weight_input() const;
    LinearParams params(
        nvinfer1::Dims const& x, nvinfer1::Dims const& weight, nvinfer1::DataType type) const;

    int32_t banks_{static_cast<int32_t>(Banks::kByFlag)};
    int32_t group_size_{0};
    int32_t zero_points_{0};
    int32_t pre_scale_{0};
    int32_t bias_{0};
    int32_t norm_{0};
    int32_t residual_{0};
    int32_t silu_mul_{0};
    int32_t prefill_{static_cast<int32_t>(Prefill::kCublasLt)};
    int32_t programmatic_{0};
    float norm_eps_{0.0F};
};

} // namespace river::trt
