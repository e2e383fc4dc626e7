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

    int32_t numInputs() const
    {
        return static_cast<int32_t>(inputs.size());
    }
    int32_t numOutputs() const
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

inline constexpr int64_t kBATCH = -1, kSEQ = -2, kCAPACITY = -3;

inline constexpr int64_t kGROUP = 32, kLAYERS = 6, kHEADS = 6, kKV_HEADS = 2, kHEAD_DIM = 16;
inline constexpr float kNORM_EPS = 1e-5F, kSCALE = 0.25F, kSOFTCAP = 30.0F;
inline constexpr int32_t kWINDOW = 8; // of the attentions with q, k and v apart, as kSOFTCAP

// Every form the checks go over. K = 72 in groups of 32: the last group is part filled.
std::vector<Layer> everyLayer(DataType activation);

// The free sizes in the order of the constants above.
std::vector<int64_t> resolve(std::vector<int64_t> sizes, std::vector<int64_t> const& freeSizes);

// As descriptions at build time, free sizes -1 with a profile of smallest and largest.
std::vector<DynamicPluginTensorDesc> buildDescriptions(std::vector<Tensor> const& tensors,
    std::vector<int64_t> const& smallest = {1, 1, 16},
    std::vector<int64_t> const& largest = {8, 64, 128});

std::vector<PluginTensorDesc> runDescriptions(
    std::vector<Tensor> const& tensors, std::vector<int64_t> const& freeSizes);

} // namespace layers
