#include "tensors.h"

namespace river::trt
{
using nvinfer1::DataType;
using nvinfer1::Dims;

int32_t Signature::input(std::string const& name) const
{
    for (size_t i = 0; i < inputs.size(); ++i)
    {
        if (name == inputs[i].name)
            return static_cast<int32_t>(i);
    }
    return -1;
}

bool obeys(TypeRule rule, DataType type, DataType first)
{
    switch (rule)
    {
    case TypeRule::kActivation:
        return type == first && (type == DataType::kHALF || type == DataType::kBF16);
    case TypeRule::kHalf:
        return type == DataType::kHALF;
    case TypeRule::kFloat:
        return type == DataType::kFLOAT;
    case TypeRule::kInt32:
        return type == DataType::kINT32;
    }
    return false;
}

char const* type_name(DataType type)
{
    switch (type)
    {
    case DataType::kFLOAT:
        return "float32";
    case DataType::kHALF:
        return "float16";
    case DataType::kBF16:
        return "bfloat16";
    case DataType::kINT8:
        return "int8";
    case DataType::kINT32:
        return "int32";
    case DataType::kINT64:
        return "int64";
    case DataType::kBOOL:
        return "bool";
    case DataType::kUINT8:
        return "uint8";
    default:
        return "a type that no plugin of river-trt takes";
    }
}

char const* rule_text(TypeRule rule)
{
    switch (rule)
    {
    case TypeRule::kActivation:
        return "float16 or bfloat16, the same as the first input";
    case TypeRule::kHalf:
        return "float16";
    case TypeRule::kFloat:
        return "float32";
    case TypeRule::kInt32:
        return "int32";
    }
    return "";
}

std::string shape_text(Dims const& dims)
{
    std::string text = "[";
    for (int32_t i = 0; i < dims.nbDims; ++i)
        text += (i == 0 ? "" : ", ") + std::to_string(dims.d[i]);
    return text + "]";
}

void require_counts(Signature const& signature, int32_t nbInputs, int32_t nbOutputs)
{
    auto const inputs = static_cast<int32_t>(signature.inputs.size());
    auto const outputs = static_cast<int32_t>(signature.outputs.size());
    if (nbInputs == inputs && nbOutputs == outputs)
        return;
    std::string names;
    for (TensorSpec const& tensor : signature.inputs)
        names += (names.empty() ? "" : ", ") + std::string(tensor.name);
    throw Invalid(format("has %d inputs and %d outputs; its attributes ask for %d and %d: %s",
        int(nbInputs), int(nbOutputs), int(inputs), int(outputs), names.c_str()));
}

void require_shape(char const* tensor, Dims const& dims, std::vector<int64_t> const& expected,
    std::string const& why)
{
    bool same = dims.nbDims == static_cast<int32_t>(expected.size());
    Dims wanted{};
    wanted.nbDims = static_cast<int32_t>(expected.size());
    for (size_t i = 0; i < expected.size(); ++i)
    {
        wanted.d[i] = expected[i];
        same = same && (dims.d[i] == expected[i] || dims.d[i] == -1 || expected[i] == -1);
    }
    if (!same)
        throw Invalid(format("%s is %s, but must be %s: %s", tensor, shape_text(dims).c_str(),
            shape_text(wanted).c_str(), why.c_str()));
}

void require_rank(char const* tensor, Dims const& dims, int32_t rank, char const* axes)
{
    if (dims.nbDims != rank)
        throw Invalid(format("%s is %s, but must have %d dimensions: %s", tensor,
            shape_text(dims).c_str(), int(rank), axes));
}

void require_scalar(char const* tensor, Dims const& dims)
{
    bool const one = dims.nbDims == 0 || (dims.nbDims == 1 && (dims.d[0] == 1 || dims.d[0] == -1));
    if (!one)
        throw Invalid(format(
            "%s is %s, but must be one element: [] or [1]", tensor, shape_text(dims).c_str()));
}

int64_t require_static(char const* tensor, Dims const& dims, int32_t axis, char const* meaning)
{
    if (dims.d[axis] < 1)
        throw Invalid(
            format("%s is %s, but %s (dimension %d) must be known when the engine is built", tensor,
                shape_text(dims).c_str(), meaning, int(axis)));
    return dims.d[axis];
}

} // namespace river::trt
