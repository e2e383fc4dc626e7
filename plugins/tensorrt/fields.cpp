#include "fields.h"

#include <cmath>
#include <cstring>
#include <limits>

namespace river::trt
{
namespace
{
using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

// What ONNX parsers add for themselves to look the creator up.
bool is_parser_field(std::string const& name)
{
    return name == "plugin_version" || name == "plugin_namespace" || name == "aliased_io";
}

PluginFieldType field_type(Attribute const& attribute)
{
    return attribute.kind == Attribute::Kind::kInt ? PluginFieldType::kINT32
                                                   : PluginFieldType::kFLOAT32;
}

template <typename T>
T read_one(PluginField const& field)
{
    T value;
    std::memcpy(&value, field.data, sizeof value); // fields need not be aligned
    return value;
}

void read_int(PluginField const& field, int32_t& out)
{
    int64_t value = 0;
    if (field.type == PluginFieldType::kINT32)
        value = read_one<int32_t>(field);
    else if (field.type == PluginFieldType::kINT64)
        value = read_one<int64_t>(field);
    else
        throw Invalid(
            format("field %s is an integer, but has field type %d", field.name, int(field.type)));
    if (value < std::numeric_limits<int32_t>::min() || value > std::numeric_limits<int32_t>::max())
        throw Invalid(format(
            "field %s = %lld does not fit 32 bits", field.name, static_cast<long long>(value)));
    out = static_cast<int32_t>(value);
}

void read_float(PluginField const& field, float& out)
{
    if (field.type != PluginFieldType::kFLOAT32)
        throw Invalid(
            format("field %s is a float32, but has field type %d", field.name, int(field.type)));
    out = read_one<float>(field);
    if (!std::isfinite(out))
        throw Invalid(format("field %s = %g is not finite", field.name, double(out)));
}

} // namespace

FieldNames::FieldNames(std::vector<Attribute> const& attributes)
{
    for (Attribute const& attribute : attributes)
        fields_.emplace_back(attribute.name, nullptr, field_type(attribute), 1);
    collection_.nbFields = static_cast<int32_t>(fields_.size());
    collection_.fields = fields_.data();
}

void read_fields(
    nvinfer1::PluginFieldCollection const* fields, std::vector<Attribute> const& attributes)
{
    std::vector<bool> seen(attributes.size(), false);
    for (int32_t i = 0; fields != nullptr && i < fields->nbFields; ++i)
    {
        PluginField const& field = fields->fields[i];
        std::string const name = field.name != nullptr ? field.name : "";
        size_t which = 0;
        while (which < attributes.size() && name != attributes[which].name)
            ++which;
        if (which == attributes.size())
        {
            if (is_parser_field(name))
                continue;
            throw Invalid(format("unknown field '%s'", name.c_str()));
        }
        if (seen[which])
            throw Invalid(format("field %s is given twice", name.c_str()));
        seen[which] = true;
        if (field.length != 1 || field.data == nullptr)
            throw Invalid(format("field %s has %d values; it takes one", name.c_str(),
                field.data == nullptr ? 0 : int(field.length)));
        Attribute const& attribute = attributes[which];
        if (attribute.kind == Attribute::Kind::kInt)
            read_int(field, *static_cast<int32_t*>(attribute.value));
        else
            read_float(field, *static_cast<float*>(attribute.value));
    }
    for (size_t which = 0; which < attributes.size(); ++which)
    {
        if (!seen[which] && attributes[which].need == Attribute::Need::kRequired)
            throw Invalid(format("field %s is missing", attributes[which].name));
    }
}

void require_choice(char const* name, int32_t value, std::initializer_list<int32_t> choices)
{
    std::string text;
    for (int32_t const choice : choices)
    {
        if (value == choice)
            return;
        text += (text.empty() ? "" : ", ") + std::to_string(choice);
    }
    throw Invalid(format("%s = %d, but must be one of %s", name, int(value), text.c_str()));
}

void require_range(char const* name, int32_t value, int32_t least, int32_t most)
{
    if (value < least || value > most)
        throw Invalid(
            format("%s = %d, but must be %d to %d", name, int(value), int(least), int(most)));
}

std::vector<PluginField> write_fields(std::vector<Attribute> const& attributes)
{
    std::vector<PluginField> fields;
    for (Attribute const& attribute : attributes)
        fields.emplace_back(attribute.name, attribute.value, field_type(attribute), 1);
    return fields;
}

} // namespace river::trt
