// What a builder asks: types, shapes, formats, configuration, aliases.
#include "layers.h"

#include <cstring>

using namespace harness;
using layers::Layer;
using layers::Tensor;

namespace
{

constexpr int32_t kNumTypes = 12, kNumFormats = 13;

std::vector<Layer> layers_of_both_types()
{
    std::vector<Layer> all = layers::every_layer(DataType::kHALF);
    for (Layer& layer : layers::every_layer(DataType::kBF16))
        all.push_back(std::move(layer));
    return all;
}

int32_t configure(
    IPluginV3& plugin, Layer const& layer, std::vector<DynamicPluginTensorDesc> const& all)
{
    return build(plugin).configurePlugin(
        all.data(), layer.num_inputs(), all.data() + layer.num_inputs(), layer.num_outputs());
}

} // namespace

RIVER_CASE(output_types_follow_the_inputs)
{
    for (Layer& layer : layers_of_both_types())
    {
        auto const plugin = create(layer.plugin, layer.fields);
        std::vector<DataType> inputs, outputs(layer.outputs.size(), DataType::kUINT8);
        for (Tensor const& tensor : layer.inputs)
            inputs.push_back(tensor.type);
        REQUIRE_EQUAL(build(*plugin).getOutputDataTypes(
                          outputs.data(), layer.num_outputs(), inputs.data(), layer.num_inputs()),
            0);
        for (size_t i = 0; i < outputs.size(); ++i)
            REQUIRE(outputs[i] == layer.outputs[i].type);
    }
}

// Every input in every type: its own is taken; for another the message names the tensor.
RIVER_CASE(a_wrong_input_type_is_named)
{
    for (Layer& layer : layers_of_both_types())
    {
        auto const plugin = create(layer.plugin, layer.fields);
        for (size_t wrong = 0; wrong < layer.inputs.size(); ++wrong)
        {
            for (int32_t type = 0; type < kNumTypes; ++type)
            {
                std::vector<DataType> inputs, outputs(layer.outputs.size());
                for (Tensor const& tensor : layer.inputs)
                    inputs.push_back(tensor.type);
                if (inputs[wrong] == static_cast<DataType>(type))
                    continue;
                inputs[wrong] = static_cast<DataType>(type);
                auto const ask = [&]
                {
                    REQUIRE_EQUAL(build(*plugin).getOutputDataTypes(outputs.data(),
                                      layer.num_outputs(), inputs.data(), layer.num_inputs()),
                        -1);
                };
                // With another activation type in the first input it is the next one that does not match.
                bool const activation =
                    inputs[0] == DataType::kHALF || inputs[0] == DataType::kBF16;
                if (wrong == 0 && activation)
                    continue;
                require_logged({layer.inputs[wrong].name + " is ", "but must be "}, ask);
            }
        }
    }
}

RIVER_CASE(a_wrong_number_of_tensors_is_named)
{
    for (Layer& layer : layers::every_layer(DataType::kHALF))
    {
        auto const plugin = create(layer.plugin, layer.fields);
        std::vector<DataType> inputs(layer.inputs.size() + 1, DataType::kHALF),
            outputs(layer.outputs.size());
        std::string const names = layer.inputs[0].name + ", " + layer.inputs[1].name;
        require_logged({"its attributes ask for " + std::to_string(layer.inputs.size()), names}, [&]
        {
            REQUIRE_EQUAL(build(*plugin).getOutputDataTypes(outputs.data(), layer.num_outputs(),
                              inputs.data(), layer.num_inputs() + 1),
                -1);
        });
    }
}

RIVER_CASE(output_shapes_keep_free_sizes_free)
{
    std::vector<int64_t> const free_sizes{5, 7, 64};
    for (Layer& layer : layers_of_both_types())
    {
        auto const plugin = create(layer.plugin, layer.fields);
        host::ExpressionBuilder expressions;
        std::vector<DimsExprs> inputs, outputs(layer.outputs.size());
        for (Tensor const& tensor : layer.inputs)
            inputs.push_back(expressions.dims(tensor.sizes));
        REQUIRE_EQUAL(build(*plugin).getOutputShapes(inputs.data(), layer.num_inputs(), nullptr, 0,
                          outputs.data(), layer.num_outputs(), expressions),
            0);
        for (size_t i = 0; i < outputs.size(); ++i)
        {
            REQUIRE(host::evaluate(outputs[i], free_sizes)
                == layers::resolve(layer.outputs[i].sizes, free_sizes));
            REQUIRE(!outputs[i].d[0]->isConstant());
        }
    }
}

RIVER_CASE(output_shapes_of_a_wrong_rank_are_refused)
{
    for (Layer& layer : layers::every_layer(DataType::kHALF))
    {
        auto const plugin = create(layer.plugin, layer.fields);
        host::ExpressionBuilder expressions;
        std::vector<DimsExprs> inputs, outputs(layer.outputs.size());
        for (Tensor const& tensor : layer.inputs)
            inputs.push_back(expressions.dims(tensor.sizes));
        inputs[0].nbDims = 2;
        require_logged({" has 2 dimensions"}, [&]
        {
            REQUIRE_EQUAL(build(*plugin).getOutputShapes(inputs.data(), layer.num_inputs(), nullptr,
                              0, outputs.data(), layer.num_outputs(), expressions),
                -1);
        });
    }
}

// Every position in every type and format, the others valid; positions behind it hold garbage.
RIVER_CASE(exactly_the_documented_formats_are_supported)
{
    for (Layer& layer : layers_of_both_types())
    {
        auto const plugin = create(layer.plugin, layer.fields);
        std::vector<Tensor> const tensors = layer.all();
        std::vector<DynamicPluginTensorDesc> const valid = layers::build_descriptions(tensors);
        for (size_t position = 0; position < tensors.size(); ++position)
        {
            for (int32_t type = 0; type < kNumTypes; ++type)
            {
                for (int32_t format = 0; format < kNumFormats; ++format)
                {
                    std::vector<DynamicPluginTensorDesc> asked(valid.size());
                    std::memset(
                        static_cast<void*>(asked.data()), 0xA5, asked.size() * sizeof asked[0]);
                    std::copy(valid.begin(), valid.begin() + static_cast<int64_t>(position) + 1,
                        asked.begin());
                    asked[position].desc.type = static_cast<DataType>(type);
                    asked[position].desc.format = static_cast<TensorFormat>(format);
                    bool expected = asked[position].desc.type == tensors[position].type;
                    if (position == 0) // the first tensor chooses between the two
                        expected = asked[0].desc.type == DataType::kHALF
                            || asked[0].desc.type == DataType::kBF16;
                    expected = expected && asked[position].desc.format == TensorFormat::kLINEAR;
                    REQUIRE_EQUAL(
                        build(*plugin).supportsFormatCombination(static_cast<int32_t>(position),
                            asked.data(), layer.num_inputs(), layer.num_outputs()),
                        expected);
                }
            }
        }
    }
}

RIVER_CASE(valid_layers_are_configured)
{
    for (Layer& layer : layers_of_both_types())
    {
        auto const plugin = create(layer.plugin, layer.fields);
        REQUIRE_EQUAL(configure(*plugin, layer, layers::build_descriptions(layer.all())), 0);
        // As the runtime does, with sizes known and constants' profiles empty.
        std::vector<DynamicPluginTensorDesc> fixed;
        for (PluginTensorDesc const& tensor : layers::run_descriptions(layer.all(), {2, 3, 64}))
            fixed.push_back({tensor, Dims{}, Dims{}, Dims{}});
        REQUIRE_EQUAL(configure(*plugin, layer, fixed), 0);
    }
}

// Every size that is known when the engine is built, made larger by one in one tensor: refused, with
// a message that shows the shape of a tensor and the rule.
RIVER_CASE(every_wrong_size_is_refused)
{
    for (Layer& layer : layers::every_layer(DataType::kHALF))
    {
        auto const plugin = create(layer.plugin, layer.fields);
        std::vector<Tensor> const tensors = layer.all();
        for (size_t wrong = 0; wrong < tensors.size(); ++wrong)
        {
            for (size_t axis = 0; axis < tensors[wrong].sizes.size(); ++axis)
            {
                bool const free = tensors[wrong].sizes[axis] < 0;
                // Positions of the rotary tables and capacity of the cache follow from nothing else.
                if (free || (tensors[wrong].name == "rotary_cos" && axis == 0))
                    continue;
                std::vector<Tensor> changed = tensors;
                ++changed[wrong].sizes[axis];
                require_logged({" is [", ", but "}, [&] {
                    REQUIRE_EQUAL(
                        configure(*plugin, layer, layers::build_descriptions(changed)), -1);
                });
            }
            std::vector<Tensor> changed = tensors;
            changed[wrong].sizes.push_back(1);
            if (changed[wrong].sizes.size() == 1)
                continue; // [1] is as good a scalar as []
            require_logged({" is [", ", but "}, [&]
            { REQUIRE_EQUAL(configure(*plugin, layer, layers::build_descriptions(changed)), -1); });
        }
    }
}

// At run time every size is known: one that disagrees with another tensor's is refused too.
RIVER_CASE(every_wrong_run_time_size_is_refused)
{
    for (Layer& layer : layers::every_layer(DataType::kHALF))
    {
        auto const plugin = create(layer.plugin, layer.fields);
        std::vector<Tensor> const tensors = layer.all();
        for (size_t wrong = 0; wrong < tensors.size(); ++wrong)
        {
            for (size_t axis = 0; axis < tensors[wrong].sizes.size(); ++axis)
            {
                if (tensors[wrong].name == "rotary_cos" && axis == 0)
                    continue;
                std::vector<PluginTensorDesc> run = layers::run_descriptions(tensors, {2, 3, 64});
                ++run[wrong].dims.d[axis];
                require_logged({" is [", ", but "}, [&]
                {
                    REQUIRE_EQUAL(runtime(*plugin).onShapeChange(run.data(), layer.num_inputs(),
                                      run.data() + layer.num_inputs(), layer.num_outputs()),
                        -1);
                });
            }
        }
    }
}

RIVER_CASE(messages_name_the_tensor_the_value_and_the_rule)
{
    auto const expect = [](Layer& layer, std::string const& name, std::vector<int64_t> const& sizes,
                            std::vector<std::string> const& parts)
    {
        auto const plugin = create(layer.plugin, layer.fields);
        std::vector<Tensor> tensors = layer.all();
        for (Tensor& tensor : tensors)
        {
            if (tensor.name == name)
                tensor.sizes = sizes;
        }
        require_logged(parts, [&]
        { REQUIRE_EQUAL(configure(*plugin, layer, layers::build_descriptions(tensors)), -1); });
    };
    std::vector<Layer> all = layers::every_layer(DataType::kHALF);
    expect(all[0], "qweight", {48, 9},
        {"RiverLinear 'layers.3.x': qweight is [48, 9], but must be [48, 12]: N = 48, K = 72, "
         "groups of 32"});
    expect(all[0], "x", {-1, -2, 76}, {"x is [-1, -1, 76], but K must be a multiple of 8"});
    expect(all[0], "weight", {-1, 72}, {"weight is [-1, 72], but N (dimension 0) must be known"});
    expect(all[5], "h_in", {-1, -2, 60},
        {"RiverGate", "h_in is [-1, -1, 60], but hidden must be a multiple of 8"});
    expect(all[5], "scope", {2}, {"scope is [2], but must be one element: [] or [1]"});
    expect(all[5], "tau", {5}, {"tau is [5], but must be [6]: hidden = 64, num_layers = 6"});
    expect(
        all[8], "k_cache", {-1, 2, -3, 12}, {"RiverAttention", "k_cache", "12", "multiple of 8"});
    expect(all[8], "qkv", {-1, -2, 96},
        {"qkv is [-1, -1, 96], but must be [-1, -1, 160]: num_heads = 6"});
    expect(all[8], "rotary_cos", {128, 9},
        {"rotary_cos is [128, 9], but R / 2 must be at most head_dim / 2"});
}

RIVER_CASE(too_many_rows_in_a_profile_are_refused)
{
    std::vector<Layer> all = layers::every_layer(DataType::kHALF);
    for (size_t const i : {size_t{0}, size_t{5}})
    {
        auto const plugin = create(all[i].plugin, all[i].fields);
        require_logged({"is [8, 8193, ", "batch * seq must be at most 65536"}, [&]
        {
            auto const tensors =
                layers::build_descriptions(all[i].all(), {1, 1, 16}, {8, 8193, 128});
            REQUIRE_EQUAL(configure(*plugin, all[i], tensors), -1);
        });
    }
}

RIVER_CASE(caches_are_aliased_and_nothing_else_is)
{
    for (Layer& layer : layers::every_layer(DataType::kHALF))
    {
        auto const plugin = create(layer.plugin, layer.fields);
        for (int32_t i = 0; i < layer.num_outputs(); ++i)
        {
            int32_t const input = build(*plugin).getAliasedInput(i);
            std::string const name = layer.outputs[static_cast<size_t>(i)].name;
            bool const off = layer.form == "q, k, v, no rotary"; // the one with aliased_caches 0
            if (!off && (name == "k_cache_out" || name == "v_cache_out"))
                REQUIRE_EQUAL(layer.inputs.at(static_cast<size_t>(input)).name + "_out", name);
            else
                REQUIRE_EQUAL(input, -1);
        }
    }
}

RIVER_CASE(workspace_grows_with_the_profile_and_covers_smaller_shapes)
{
    for (Layer& layer : layers::every_layer(DataType::kHALF))
    {
        auto const plugin = create(layer.plugin, layer.fields);
        auto const bytes = [&](std::vector<int64_t> const& largest)
        {
            auto const all = layers::build_descriptions(layer.all(), {1, 1, 16}, largest);
            return build(*plugin).getWorkspaceSize(all.data(), layer.num_inputs(),
                all.data() + layer.num_inputs(), layer.num_outputs());
        };
        size_t const most = bytes({8, 64, 4096});
        for (int64_t batch = 1; batch <= 8; ++batch)
        {
            for (int64_t const seq : {1, 2, 7, 8, 9, 64})
            {
                for (int64_t const capacity : {16, 64, 1024, 4096})
                    REQUIRE(bytes({batch, seq, capacity}) <= most);
            }
        }
    }
}
