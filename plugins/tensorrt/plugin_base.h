// What the three plugins have in common: TensorRT's IPluginV3 interfaces over a signature, a table of
// attributes and a check of shapes.
#pragma once
#include "fields.h"
#include "tensors.h"

#include <NvInferRuntime.h>

#include <new>
#include <string>
#include <utility>
#include <vector>

namespace river::trt
{

inline constexpr char const* kNamespace = "river_trt";
inline constexpr char const* kVersion = "1";

// Plugin is the derived class. It has
//   static constexpr char const* kName
//   std::vector<Attribute> attributes()            pointing into itself
//   void check_attributes() const                   throws Invalid
//   Signature signature() const
//   void check_shapes(Dims const* inputs, Dims const* outputs) const    throws Invalid; -1 is unknown
//   void prepare(PluginTensorDesc const* inputs)   before the launches of these shapes; may allocate
// and overrides getOutputShapes, enqueue (and getAliasedInput, getWorkspaceSize).
template <typename Plugin>
class PluginBase : public nvinfer1::IPluginV3,
                   public nvinfer1::IPluginV3OneCore,
                   public nvinfer1::IPluginV3OneBuildV2,
                   public nvinfer1::IPluginV3OneRuntime
{
public:
    explicit PluginBase(std::string layer)
        : layer_(std::move(layer))
    {
    }
    // The copies of TensorRT's fields point into the original: not copied.
    PluginBase(PluginBase const& other)
        : nvinfer1::IPluginV3(other)
        , nvinfer1::IPluginV3OneCore(other)
        , nvinfer1::IPluginV3OneBuildV2(other)
        , nvinfer1::IPluginV3OneRuntime(other)
        , layer_(other.layer_)
    {
    }
    PluginBase& operator=(PluginBase const&) = delete;

    nvinfer1::IPluginCapability* getCapabilityInterface(
        nvinfer1::PluginCapabilityType type) noexcept override
    {
        using nvinfer1::PluginCapabilityType;
        switch (type)
        {
        case PluginCapabilityType::kCORE:
            return static_cast<nvinfer1::IPluginV3OneCore*>(this);
        case PluginCapabilityType::kBUILD:
            return static_cast<nvinfer1::IPluginV3OneBuildV2*>(this);
        case PluginCapabilityType::kRUNTIME:
            return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
        }
        return nullptr;
    }

    nvinfer1::IPluginV3* clone() noexcept override
    {
        Plugin* copy = nullptr;
        guard([&] { copy = new Plugin(self()); });
        return copy;
    }

    nvinfer1::AsciiChar const* getPluginName() const noexcept override
    {
        return Plugin::kName;
    }

    nvinfer1::AsciiChar const* getPluginVersion() const noexcept override
    {
        return kVersion;
    }

    nvinfer1::AsciiChar const* getPluginNamespace() const noexcept override
    {
        return kNamespace;
    }

    int32_t configurePlugin(nvinfer1::DynamicPluginTensorDesc const* in, int32_t nbInputs,
        nvinfer1::DynamicPluginTensorDesc const* out, int32_t nbOutputs) noexcept override
    {
        return guard([&]
        {
            require_counts(self().signature(), nbInputs, nbOutputs);
            // The smallest and the largest shapes of the profile obey the rules too.
            check_descriptions(
                in, nbInputs, out, nbOutputs, [](auto const& tensor) { return tensor.desc.dims; });
            check_descriptions(in, nbInputs, out, nbOutputs,
                [](auto const& tensor) { return known(tensor.min, tensor); });
            check_descriptions(in, nbInputs, out, nbOutputs,
                [](auto const& tensor) { return known(tensor.max, tensor); });
        });
    }

    int32_t getOutputDataTypes(nvinfer1::DataType* outputTypes, int32_t nbOutputs,
        nvinfer1::DataType const* inputTypes, int32_t nbInputs) const noexcept override
    {
        return guard([&]
        {
            Signature const signature = self().signature();
            require_counts(signature, nbInputs, nbOutputs);
            for (int32_t i = 0; i < nbInputs; ++i)
            {
                TensorSpec const& tensor = signature.at(i);
                if (!obeys(tensor.type, inputTypes[i], inputTypes[0]))
                    throw Invalid(format("%s is %s, but must be %s", tensor.name,
                        type_name(inputTypes[i]), rule_text(tensor.type)));
            }
            for (int32_t i = 0; i < nbOutputs; ++i)
            {
                TypeRule const rule = signature.outputs[static_cast<size_t>(i)].type;
                outputTypes[i] =
                    rule == TypeRule::kActivation ? inputTypes[0] : nvinfer1::DataType::kINT32;
            }
        });
    }

    int32_t getNbOutputs() const noexcept override
    {
        int32_t count = 0;
        guard([&] { count = static_cast<int32_t>(self().signature().outputs.size()); });
        return count;
    }

    bool supportsFormatCombination(int32_t position, nvinfer1::DynamicPluginTensorDesc const* inOut,
        int32_t nbInputs, int32_t nbOutputs) noexcept override
    {
        bool supported = false;
        guard([&]
        {
            Signature const signature = self().signature();
            require_counts(signature, nbInputs, nbOutputs);
            nvinfer1::PluginTensorDesc const& tensor = inOut[position].desc;
            supported = tensor.format == nvinfer1::TensorFormat::kLINEAR
                && obeys(signature.at(position).type, tensor.type, inOut[0].desc.type);
        });
        return supported;
    }

    char const* getTimingCacheID() noexcept override
    {
        return ""; // one tactic, and shapes and types are in TensorRT's key already
    }

    void prepare(nvinfer1::PluginTensorDesc const*)
    {
    }

    int32_t onShapeChange(nvinfer1::PluginTensorDesc const* in, int32_t nbInputs,
        nvinfer1::PluginTensorDesc const* out, int32_t nbOutputs) noexcept override
    {
        return guard([&]
        {
            require_counts(self().signature(), nbInputs, nbOutputs);
            check_descriptions(
                in, nbInputs, out, nbOutputs, [](auto const& tensor) { return tensor.dims; });
            static_cast<Plugin&>(*this).prepare(in);
        });
    }

    nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept override
    {
        return clone();
    }

    nvinfer1::PluginFieldCollection const* getFieldsToSerialize() noexcept override
    {
        guard([&]
        {
            fields_ = write_fields(static_cast<Plugin&>(*this).attributes());
            collection_.nbFields = static_cast<int32_t>(fields_.size());
            collection_.fields = fields_.data();
        });
        return &collection_;
    }

protected:
    template <typename Body>
    int32_t guard(Body&& body) const noexcept
    {
        return guarded(Plugin::kName, layer_.c_str(), std::forward<Body>(body));
    }

private:
    Plugin const& self() const noexcept
    {
        return static_cast<Plugin const&>(*this);
    }

    // A profile's limit, with what has no profile (a constant's are 0 there) as the network has it.
    static nvinfer1::Dims known(
        nvinfer1::Dims const& limit, nvinfer1::DynamicPluginTensorDesc const& tensor)
    {
        nvinfer1::Dims dims = tensor.desc.dims;
        for (int32_t i = 0; i < dims.nbDims && i < limit.nbDims; ++i)
        {
            if (dims.d[i] == -1 && limit.d[i] > 0)
                dims.d[i] = limit.d[i];
        }
        return dims;
    }

    template <typename Tensor, typename GetDims>
    void check_descriptions(Tensor const* in, int32_t nbInputs, Tensor const* out,
        int32_t nbOutputs, GetDims get_dims) const
    {
        std::vector<nvinfer1::Dims> inputs, outputs;
        for (int32_t i = 0; i < nbInputs; ++i)
            inputs.push_back(get_dims(in[i]));
        for (int32_t i = 0; i < nbOutputs; ++i)
            outputs.push_back(get_dims(out[i]));
        self().check_shapes(inputs.data(), outputs.data());
    }

    std::string layer_;
    std::vector<nvinfer1::PluginField> fields_;
    nvinfer1::PluginFieldCollection collection_{};
};

template <typename Plugin>
class Creator final : public nvinfer1::IPluginCreatorV3One
{
public:
    nvinfer1::IPluginV3* createPlugin(nvinfer1::AsciiChar const* layer,
        nvinfer1::PluginFieldCollection const* fields, nvinfer1::TensorRTPhase) noexcept override
    {
        char const* const name = layer != nullptr ? layer : "";
        Plugin* plugin = nullptr;
        int32_t const status = guarded(Plugin::kName, name, [&]
        {
            plugin = new Plugin(name);
            read_fields(fields, plugin->attributes());
            plugin->check_attributes();
        });
        if (status == 0)
            return plugin;
        delete plugin;
        return nullptr;
    }

    nvinfer1::PluginFieldCollection const* getFieldNames() noexcept override
    {
        return names_.get();
    }

    nvinfer1::AsciiChar const* getPluginName() const noexcept override
    {
        return Plugin::kName;
    }

    nvinfer1::AsciiChar const* getPluginVersion() const noexcept override
    {
        return kVersion;
    }

    nvinfer1::AsciiChar const* getPluginNamespace() const noexcept override
    {
        return kNamespace;
    }

private:
    FieldNames const names_{Plugin("").attributes()};
};

} // namespace river::trt
