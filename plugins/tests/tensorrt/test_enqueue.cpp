// enqueue, with the plugins built over the CPU shim of the kernels: pointers are the host's here.
#include "reference.h"

#include <cmath>

using namespace harness;
using layers::Layer;
using reference::Values;

namespace
{

// Relative L2 errors allowed: those of the project for the kernels.
double tolerance(DataType activation)
{
    return activation == DataType::kHALF ? 1e-3 : 8e-3;
}

void run(
    IPluginV3& plugin, Layer const& layer, Values& values, std::vector<int64_t> const& free_sizes)
{
    auto const inputs = layers::run_descriptions(layer.inputs, free_sizes);
    auto const outputs = layers::run_descriptions(layer.outputs, free_sizes);
    std::vector<void const*> in;
    std::vector<void*> out;
    for (layers::Tensor const& tensor : layer.inputs)
        in.push_back(values.memory(tensor.name));
    for (layers::Tensor const& tensor : layer.outputs)
        out.push_back(values.memory(tensor.name));
    // What getWorkspaceSize asks for and no byte more.
    auto const all = layers::build_descriptions(layer.all(), free_sizes, free_sizes);
    size_t const bytes = build(plugin).getWorkspaceSize(
        all.data(), layer.num_inputs(), all.data() + layer.num_inputs(), layer.num_outputs());
    std::unique_ptr<void, void (*)(void*)> const workspace(
        bytes > 0 ? std::aligned_alloc(256, (bytes + 255) / 256 * 256) : nullptr, std::free);
    REQUIRE_EQUAL(runtime(plugin).onShapeChange(
                      inputs.data(), layer.num_inputs(), outputs.data(), layer.num_outputs()),
        0);
    REQUIRE_EQUAL(runtime(plugin).enqueue(inputs.data(), outputs.data(), in.data(), out.data(),
                      workspace.get(), nullptr),
        0);
}

void require_results(Layer const& layer, Values const& values, reference::Results const& expected)
{
    REQUIRE_EQUAL(expected.size(), layer.outputs.size());
    for (layers::Tensor const& tensor : layer.outputs)
    {
        std::vector<double> const& want = expected.at(tensor.name);
        REQUIRE_EQUAL(static_cast<int64_t>(want.size()), values.count(tensor.name));
        double error = 0.0, norm = 0.0;
        for (size_t i = 0; i < want.size(); ++i)
        {
            double const got = values.at(tensor.name, static_cast<int64_t>(i));
            if (tensor.type == DataType::kINT32)
                REQUIRE_EQUAL(got, want[i]);
            REQUIRE(std::isfinite(got));
            error += (got - want[i]) * (got - want[i]);
            norm += want[i] * want[i];
        }
        if (tensor.type != DataType::kINT32 && !(std::sqrt(error / norm) <= tolerance(tensor.type)))
            fail(__FILE__, __LINE__,
                layer.plugin + " (" + layer.form + "): " + tensor.name + " is off by "
                    + std::to_string(std::sqrt(error / norm)));
    }
}

void run_and_compare(DataType activation, std::vector<int64_t> const& free_sizes)
{
    unsigned seed = 1;
    for (Layer& layer : layers::every_layer(activation))
    {
        auto const plugin = create(layer.plugin, layer.fields);
        std::unique_ptr<IPluginV3> const attached(runtime(*plugin).attachToContext(nullptr));
        Values values(layer, free_sizes, ++seed);
        auto const expected = reference::compute(layer, values);
        run(*attached, layer, values, free_sizes);
        require_results(layer, values, expected);
    }
}

} // namespace

RIVER_CASE(decode_of_one_token_in_half)
{
    run_and_compare(DataType::kHALF, {1, 1, 64});
}

RIVER_CASE(decode_of_a_batch_in_half)
{
    run_and_compare(DataType::kHALF, {4, 1, 64});
}

RIVER_CASE(decode_of_a_batch_in_bfloat16)
{
    run_and_compare(DataType::kBF16, {3, 2, 64});
}

RIVER_CASE(more_rows_than_a_decode_step_in_half)
{
    run_and_compare(DataType::kHALF, {2, 11, 64});
}

RIVER_CASE(more_rows_than_a_decode_step_in_bfloat16)
{
    run_and_compare(DataType::kBF16, {1, 13, 64});
}

// Both scopes over rows, and the direction in place of the block's input.
RIVER_CASE(gates_read_scope_and_direction_on_the_device)
{
    std::vector<int64_t> const free_sizes{3, 4, 16};
    for (int32_t scope = 0; scope < 3; ++scope)
    {
        for (int32_t direction = 0; direction < 2; ++direction)
        {
            Layer layer = layers::every_layer(DataType::kHALF)[6];
            REQUIRE_EQUAL(layer.plugin, "RiverGate");
            auto const plugin = create(layer.plugin, layer.fields);
            Values values(layer, free_sizes, 40U + static_cast<unsigned>(scope));
            values.set("scope", 0, scope);
            values.set("use_directions", 0, direction);
            if (scope > 0)
                values.set(
                    "tau", layer.index - 1, -0.1); // low enough for some sequences to pass whole
            auto const expected = reference::compute(layer, values);
            run(*plugin, layer, values, free_sizes);
            require_results(layer, values, expected);
        }
    }
}

// Caches bound to one address: updated in place, not one byte of other slots touched.
RIVER_CASE(caches_in_place)
{
    std::vector<int64_t> const free_sizes{2, 1, 64};
    Layer layer = layers::every_layer(DataType::kHALF)[8];
    REQUIRE_EQUAL(layer.plugin, "RiverAttention");
    auto const plugin = create(layer.plugin, layer.fields);
    Values values(layer, free_sizes, 7);
    auto const expected = reference::compute(layer, values);
    auto const inputs = layers::run_descriptions(layer.inputs, free_sizes);
    auto const outputs = layers::run_descriptions(layer.outputs, free_sizes);
    std::vector<void const*> in;
    for (layers::Tensor const& tensor : layer.inputs)
        in.push_back(values.memory(tensor.name));
    std::vector<void*> out{
        values.memory("out"), values.memory("k_cache"), values.memory("v_cache")};
    REQUIRE_EQUAL(runtime(*plugin).onShapeChange(
                      inputs.data(), layer.num_inputs(), outputs.data(), layer.num_outputs()),
        0);
    REQUIRE_EQUAL(runtime(*plugin).enqueue(
                      inputs.data(), outputs.data(), in.data(), out.data(), nullptr, nullptr),
        0);
    for (char const* name : {"k_cache", "v_cache"})
    {
        std::memcpy(
            values.memory(std::string(name) + "_out"), values.memory(name), values.bytes(name));
    }
    require_results(layer, values, expected);
}

// Shapes change between launches of one context: the plugin's own memory is made ready again.
RIVER_CASE(shapes_change_between_launches)
{
    for (size_t const which : {size_t{6}, size_t{8}})
    {
        Layer layer = layers::every_layer(DataType::kHALF)[which];
        auto const plugin = create(layer.plugin, layer.fields);
        unsigned seed = 90;
        for (std::vector<int64_t> const& free_sizes : std::vector<std::vector<int64_t>>{
                 {1, 9, 64}, {1, 1, 64}, {1, 1, 64}, {5, 1, 64}, {2, 3, 64}, {1, 1, 64}})
        {
            Values values(layer, free_sizes, ++seed);
            if (values.has("scope"))
                values.set("scope", 0, double(seed % 3));
            auto const expected = reference::compute(layer, values);
            run(*plugin, layer, values, free_sizes);
            require_results(layer, values, expected);
        }
    }
}

// Under in-flight batching the number of tokens changes in nearly every step: after the first step
// nothing waits for the device or allocates (cuda_host.cpp then refuses both).
RIVER_CASE(no_step_waits_for_the_device)
{
    Layer layer = layers::every_layer(DataType::kHALF)[6];
    REQUIRE_EQUAL(layer.plugin, "RiverGate");
    auto const plugin = create(layer.plugin, layer.fields);
    unsigned seed = 190;
    for (int64_t const tokens : {9, 1, 17, 40, 2, 300, 1})
    {
        std::vector<int64_t> const free_sizes{1, tokens, 64};
        Values values(layer, free_sizes, ++seed);
        auto const expected = reference::compute(layer, values);
        run(*plugin, layer, values, free_sizes);
        require_results(layer, values, expected);
        setenv("RIVER_REFUSE_WAITS", "1", 1);
    }
    unsetenv("RIVER_REFUSE_WAITS");
}

RIVER_CASE(a_launch_without_prepared_shapes_is_an_error)
{
    std::vector<int64_t> const free_sizes{1, 1, 64};
    Layer layer = layers::every_layer(DataType::kHALF)[6]; // RiverGate
    auto const plugin = create(layer.plugin, layer.fields);
    Values values(layer, free_sizes, 3);
    auto const inputs = layers::run_descriptions(layer.inputs, free_sizes);
    auto const outputs = layers::run_descriptions(layer.outputs, free_sizes);
    std::vector<void const*> in;
    std::vector<void*> out;
    for (layers::Tensor const& tensor : layer.inputs)
        in.push_back(values.memory(tensor.name));
    for (layers::Tensor const& tensor : layer.outputs)
        out.push_back(values.memory(tensor.name));
    require_logged({"RiverGate 'layers.3.x': ", "workspace"}, [&]
    {
        REQUIRE_EQUAL(runtime(*plugin).enqueue(
                          inputs.data(), outputs.data(), in.data(), out.data(), nullptr, nullptr),
            -1);
    });
}
