// A plugin's attributes: one table a plugin, read from and written to TensorRT's plugin fields.
#pragma once
#include "log.h"

#include <NvInferRuntime.h>

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

namespace river::trt
{

// One attribute. ONNX has int64 and float only; both are taken and stored as 32 bits.
struct Attribute
{
    enum class Kind
    {
        kInt,
        kFloat
    };
    enum class Need
    {
        kRequired,
        kOptional
    };

    char const* name;
    Kind kind;
    Need need;
    void*
        value; // int32_t or float in the plugin; keeps its default where an optional one is absent
};

// Fields of a creator: the names and types that it takes.
class FieldNames
{
public:
    explicit FieldNames(std::vector<Attribute> const& attributes);
    nvinfer1::PluginFieldCollection const* get() const noexcept
    {
        return &collection_;
    }

private:
    std::vector<nvinfer1::PluginField> fields_;
    nvinfer1::PluginFieldCollection collection_{};
};

// Reads every attribute. Throws Invalid for a missing, doubled, unknown or ill-typed one.
void read_fields(
    nvinfer1::PluginFieldCollection const* fields, std::vector<Attribute> const& attributes);

// Throws Invalid unless `value` is one of `choices`.
void require_choice(char const* name, int32_t value, std::initializer_list<int32_t> choices);

// Throws Invalid unless `value` is in least .. most.
void require_range(char const* name, int32_t value, int32_t least, int32_t most);

// The values as fields, for a serialised engine. They point into `attributes`' values.
std::vector<nvinfer1::PluginField> write_fields(std::vector<Attribute> const& attributes);

} // namespace river::trt
