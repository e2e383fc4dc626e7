#pragma once
#include "device_buffer.h"
#include "plugin_base.h"

namespace river::trt
{

// RiverGate: what a block's output says about where its tokens go on.
//
// inputs, those in brackets where the attribute says so; T is float16 or bfloat16:
//   h_in         [batch, seq, H] T, the block's input
//   delta        [batch, seq, H] T, the block's output, or with residual 1 what is added to residual
//   [residual]   [batch, seq, H] T                            residual 1
//   [directions] [L, H] float32                               direction 1
//   [use_directions] one int32: score against the layer's direction, not h_in    direction 1
//   tau          [L] float32
//   [pinned]     [L] int32 flags                              layer < num_layers
//   scope        one int32: 0 token, 1 sequence, 2 batch
//   [exited]     [batch, seq] int32 flags                     layer > 1
//   [exit_layer] [batch, seq] int32                           layer > 1
// outputs:
//   [h_out]      [batch, seq, H] T = residual + delta         residual 1
//   exited_out   [batch, seq] int32 flags
//   exit_layer_out [batch, seq] int32
//   [use_river]  [batch, seq] int32 flags of the next layer   layer < num_layers
//
// Flags among the inputs are 0 or 1. The arrays come whole: the plugin reads its layer's entry, so an engine needs no slice.
class GatePlugin final : public PluginBase<GatePlugin>
{
public:
    static constexpr char const* kName = "RiverGate";

    using PluginBase::PluginBase;

    std::vector<Attribute> attributes();
    void check_attributes() const;
    Signature signature() const;
    void check_shapes(nvinfer1::Dims const* inputs, nvinfer1::Dims const* outputs) const;
    void prepare(nvinfer1::PluginTensorDesc const* inputs);

    int32_t getOutputShapes(nvinfer1::DimsExprs const* inputs, int32_t nbInputs,
        nvinfer1::DimsExprs const* shapeInputs, int32_t nbShapeInputs, nvinfer1::DimsExprs* outputs,
        int32_t nbOutputs, nvinfer1::IExprBuilder& builder) noexcept override;
    int32_t enqueue(nvinfer1::PluginTensorDesc const* inputDesc,
        nvinfer1::PluginTensorDesc const* outputDesc, void const* const* inputs,
        void* const* outputs, void* workspace, cudaStream_t stream) noexcept override;

private:
    bool is_first() const
    {
        return layer_ == 1;
    }
    bool is_last() const
    {
        return layer_ == num_layers_;
    }
    GateParams params(nvinfer1::Dims const& h, nvinfer1::DataType type) const;

    int32_t layer_{0};
    int32_t num_layers_{0};
    int32_t residual_{0};
    int32_t direction_{0};
    int32_t programmatic_{0};
    DeviceBuffer workspace_;
};

} // namespace river::trt
