// One valid instance of each form of each plugin: its fields, tensor names, shapes and types.
#pragma once
#include "harness.h"

namespace layers
{
using namespace nvinfer1;

struct Tensor
{
    std::string name;
    std::vector<int64_t>
        sizes; // -1: batch, -2: seq, -3: cache capacity; free where the network is dynamic
    DataType type;
};

struct Layer
{
    std::string plugin;
    std::string form;
    host::Fields fields;
    std::vector<Tensor> inputs;
    std::vector<Tensor> outputs;
    int32_t index{0}; // of a gate

    int32_t num_inputs() const
    {
        return static_cast<int32_t>(inputs.size());
    }
    int32_t num_outputs() const
    {
        return static_cast<int32_t>(outputs.size());
    }
    std::vector<Tensor> all() const
    {
        std::vector<Tensor> tensors = inputs;
        tensors.insert(tensors.end(), outputs.begin(), outputs.end());
        return tensors;
    }
};

inline constexpr int64_t kBatch = -1, kSeq = -2, kCapacity = -3;

inline constexpr int64_t kGroup = 32, kLayers = 6, kHeads = 6, kKvHeads = 2, kHeadDim = 16;
inline constexpr float kNormEps = 1e-5F, kScale = 0.25F, kSoftcap = 30.0F;
inline constexpr int32_t kWindow = 8; // of the attentions with q, k and v apart, as kSoftcap

// Every form the checks go over. K = 72 in groups of 32: the last group is part filled.
std::vector<Layer> every_layer(DataType activation);

// The free sizes in the order of the constants above.
std::vector<int64_t> resolve(std::vector<int64_t> sizes, std::vector<int64_t> const& free_sizes);

// As descriptions at build time, free sizes -1 with a profile of smallest and largest.
std::vector<DynamicPluginTensorDesc> build_descriptions(std::vector<Tensor> const& tensors,
    std::vector<int64_t> const& smallest = {1, 1, 16},
    std::vector<int64_t> const& largest = {8, 64, 128});

std::vector<PluginTensorDesc> run_descriptions(
    std::vector<Tensor> const& tensors, std::vector<int64_t> const& free_sizes);

} // namespace layers
