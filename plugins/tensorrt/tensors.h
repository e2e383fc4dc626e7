// Names, types and shapes of a plugin's tensors: what the checks of all three plugins share.
#pragma once
#include "log.h"

#include <NvInferRuntime.h>

#include <cstdint>
#include <string>
#include <vector>

namespace river::trt
{

enum class TypeRule
{
    kActivation, // float16 or bfloat16, one of them for all such tensors of the plugin
    kHalf,       // float16 whatever the activations are: scales of the river bank
    kFloat,
    kInt32 // also flags and packed 4-bit weights: TensorRT excludes bool and uint8 from plugins
};

struct TensorSpec
{
    char const* name;
    TypeRule type;
};

// The tensors of one plugin instance, in order; which are there depends on its attributes.
struct Signature
{
    std::vector<TensorSpec> inputs;
    std::vector<TensorSpec> outputs;

    // Position of the input of that name, or -1.
    int32_t input(std::string const& name) const;

    TensorSpec const& at(int32_t position) const // inputs, then outputs
    {
        auto const count = static_cast<int32_t>(inputs.size());
        return position < count ? inputs[static_cast<size_t>(position)]
                                : outputs[static_cast<size_t>(position - count)];
    }
};

// Whether a tensor of `type` obeys `rule`, given the type of the plugin's first input.
bool obeys(TypeRule rule, nvinfer1::DataType type, nvinfer1::DataType first);

char const* type_name(nvinfer1::DataType type);
char const* rule_text(TypeRule rule);
std::string shape_text(nvinfer1::Dims const& dims); // [-1, 8, 576]; -1 is a size not known yet

// Throws Invalid unless the plugin has that many inputs and outputs.
void require_counts(Signature const& signature, int32_t nbInputs, int32_t nbOutputs);

// Throws Invalid unless `dims` is `expected`; -1 in either matches all. `why` completes the message.
void require_shape(char const* tensor, nvinfer1::Dims const& dims,
    std::vector<int64_t> const& expected, std::string const& why);

// Throws Invalid unless the tensor has `rank` dimensions.
void require_rank(char const* tensor, nvinfer1::Dims const& dims, int32_t rank, char const* axes);

// Throws Invalid unless the tensor holds one element: [] or [1].
void require_scalar(char const* tensor, nvinfer1::Dims const& dims);

// Throws Invalid unless the size is known when the engine is built.
int64_t require_static(
    char const* tensor, nvinfer1::Dims const& dims, int32_t axis, char const* meaning);

} // namespace river::trt
