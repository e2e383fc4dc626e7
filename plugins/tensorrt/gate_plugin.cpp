#include "gate_plugin.h"

namespace river::trt
{
using nvinfer1::Dims;
using nvinfer1::DimsExprs;
using nvinfer1::PluginTensorDesc;

namespace
{
// The kernel reads these two as bool: the lowest byte of an int32 that is 0 or 1.
bool const* flag_pointer(void const* flag)
{
    return static_cast<bool const*>(flag);
}
} // namespace

std::vector<Attribute> GatePlugin::attributes()
{
    constexpr auto kInt = Attribute::Kind::kInt;
    constexpr auto kRequired = Attribute::Need::kRequired;
    constexpr auto kOptional = Attribute::Need::kOptional;
    return {
        {"layer", kInt, kRequired, &layer_},
        {"num_layers", kInt, kRequired, &num_layers_},
        {"residual", kInt, kOptional, &residual_},
        {"direction", kInt, kOptional, &direction_},
        {"programmatic", kInt, kOptional, &programmatic_},
    };
}

void GatePlugin::check_attributes() const
{
    require_range("num_layers", num_layers_, 1, 65536);
    require_range("layer", layer_, 1, num_layers_);
    for (auto const& [name, value] : {std::pair{"residual", residual_}, {"direction", direction_},
             {"programmatic", programmatic_}})
        require_choice(name, value, {0, 1});
}

Signature GatePlugin::signature() const
{
    Signature tensors;
    auto const add = [](std::vector<TensorSpec>& list, bool wanted, char const* name, TypeRule type)
    {
        if (wanted)
            list.push_back({name, type});
    };
    add(tensors.inputs, true, "h_in", TypeRule::kActivation);
    add(tensors.inputs, true, "delta", TypeRule::kActivation);
    add(tensors.inputs, residual_ != 0, "residual", TypeRule::kActivation);
    add(tensors.inputs, direction_ != 0, "directions", TypeRule::kFloat);
    add(tensors.inputs, direction_ != 0, "use_directions", TypeRule::kInt32);
    add(tensors.inputs, true, "tau", TypeRule::kFloat);
    add(tensors.inputs, !is_last(), "pinned", TypeRule::kInt32);
    add(tensors.inputs, true, "scope", TypeRule::kInt32);
    add(tensors.inputs, !is_first(), "exited", TypeRule::kInt32);
    add(tensors.inputs, !is_first(), "exit_layer", TypeRule::kInt32);
    add(tensors.outputs, residual_ != 0, "h_out", TypeRule::kActivation);
    add(tensors.outputs, true, "exited_out", TypeRule::kInt32);
    add(tensors.outputs, true, "exit_layer_out", TypeRule::kInt32);
    add(tensors.outputs, !is_last(), "use_river", TypeRule::kInt32);
    return tensors;
}

void GatePlugin::check_shapes(Dims const* inputs, Dims const* outputs) const
{
    Signature const tensors = signature();
    require_rank("h_in", inputs[0], 3, "[batch, seq, hidden]");
    int64_t const batch = inputs[0].d[0], seq = inputs[0].d[1];
    int64_t const hidden = require_static("h_in", inputs[0], 2, "hidden");
    if (hidden % 8 != 0 || hidden > 65536)
        throw Invalid(format("h_in is %s, but hidden must be a multiple of 8 and at most 65536",
            shape_text(inputs[0]).c_str()));
    if (batch > 0 && seq > 0 && batch * seq > 65536)
        throw Invalid(format(
            "h_in is %s, but batch * seq must be at most 65536", shape_text(inputs[0]).c_str()));
    std::string const why =
        format("hidden = %lld, num_layers = %d", static_cast<long long>(hidden), int(num_layers_));
    auto const require = [&](char const* name, std::vector<int64_t> const& expected)
    {
        int32_t const i = tensors.input(name);
        if (i >= 0)
            require_shape(name, inputs[i], expected, why);
    };
    require("delta", {batch, seq, hidden});
    require("residual", {batch, seq, hidden});
    require("directions", {num_layers_, hidden});
    require("tau", {num_layers_});
    require("pinned", {num_layers_});
    require("exited", {batch, seq});
    require("exit_layer", {batch, seq});
    for (char const* name : {"use_directions", "scope"})
    {
        int32_t const i = tensors.input(name);
        if (i >= 0)
            require_scalar(name, inputs[i]);
    }
    for (size_t i = 0; i < tensors.outputs.size(); ++i)
    {
        TensorSpec const& tensor = tensors.outputs[i];
        if (tensor.type == TypeRule::kActivation)
            require_shape(tensor.name, outputs[i], {batch, seq, hidden}, why);
        else
            require_shape(tensor.name, outputs[i], {batch, seq}, why);
    }
}

int32_t GatePlugin::getOutputShapes(DimsExprs const* inputs, int32_t nbInputs, DimsExprs const*,
    int32_t nbShapeInputs, DimsExprs* outputs, int32_t nbOutputs, nvinfer1::IExprBuilder&) noexcept
{
    return guard([&]
    {
        Signature const tensors = signature();
        require_counts(tensors, nbInputs + nbShapeInputs, nbOutputs);
        if (inputs[0].nbDims != 3)
            throw Invalid(format("h_in has %d dimensions, but must have 3: [batch, seq, hidden]",
                int(inputs[0].nbDims)));
        for (int32_t i = 0; i < nbOutputs; ++i)
        {
            outputs[i] = inputs[0];
            if (tensors.outputs[static_cast<size_t>(i)].type == TypeRule::kInt32)
                outputs[i].nbDims = 2;
        }
    });
}

GateParams GatePlugin::params(Dims const& h, nvinfer1::DataType type) const
{
    GateParams p;
    p.type = activation_type(type);
    p.flag_type = FlagType::kInt32;
    p.programmatic = programmatic_ != 0;
    p.batch = size32(h.d[0]);
    p.seq = size32(h.d[1]);
    p.hidden = size32(h.d[2]);
    p.layer = layer_;
    p.num_layers = num_layers_;
    return p;
}

void GatePlugin::prepare(PluginTensorDesc const* inputs)
{
    // For the most tokens at once: under in-flight batching their number changes in every step.
    GateParams most = params(inputs[0].dims, inputs[0].type);
    most.batch = 1;
    most.seq = kMostGateTokens;
    workspace_.prepare(gate_workspace_bytes(most), kGateCounterBytes);
}

int32_t GatePlugin::enqueue(PluginTensorDesc const* inputDesc, PluginTensorDesc const*,
    void const* const* inputs, void* const* outputs, void*, cudaStream_t stream) noexcept
{
    return guard([&]
    {
        Signature const tensors = signature();
        auto const pointer = [&](char const* name) -> void const*
        {
            int32_t const i = tensors.input(name);
            return i < 0 ? nullptr : inputs[i];
        };
        GateParams p = params(inputDesc[0].dims, inputDesc[0].type);
        p.h_in = inputs[0];
        p.delta = inputs[1];
        p.residual = pointer("residual");
        if (direction_ != 0)
        {
            p.direction = static_cast<float const*>(pointer("directions"))
                + static_cast<int64_t>(layer_ - 1) * p.hidden;
            p.use_direction = flag_pointer(pointer("use_directions"));
        }
        p.tau = static_cast<float const*>(pointer("tau")) + (layer_ - 1);
        if (!is_last())
            p.pinned_next = flag_pointer(static_cast<int32_t const*>(pointer("pinned")) + layer_);
        p.scope = static_cast<int32_t const*>(pointer("scope"));
        p.exited = pointer("exited");
        p.exit_layer = static_cast<int32_t const*>(pointer("exit_layer"));
        size_t next = 0;
        if (residual_ != 0)
            p.h_out = outputs[next++];
        p.exited_out = outputs[next++];
        p.exit_layer_out = static_cast<int32_t*>(outputs[next++]);
        if (!is_last())
            p.use_river_next = outputs[next];
        p.workspace = workspace_.data();
        p.workspace_bytes = workspace_.bytes();
        require_launched(launch_gate(p, stream), explain_gate(p));
    });
}

} // namespace river::trt
