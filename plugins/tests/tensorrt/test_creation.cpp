// The entry points, the creators, and what they make of good and bad fields.
#include "layers.h"

#include <cstring>
#include <limits>
#include <set>

using namespace harness;
using host::Fields;

namespace
{

Fields linear_fields()
{
    return Fields().add("group_size", 32);
}
Fields gate_fields()
{
    return Fields().add("layer", 2).add("num_layers", 6);
}
Fields attention_fields()
{
    return Fields().add("num_heads", 6).add("num_kv_heads", 2).add("scale", 0.25F);
}

// The plugin is refused, with one line that names it, its layer and every text of `parts`.
void require_refused(
    std::string const& plugin, Fields const& fields, std::vector<std::string> parts)
{
    parts.push_back(plugin + " 'layers.3.x': ");
    require_logged(parts, [&] { REQUIRE(try_create(plugin, fields) == nullptr); });
}

} // namespace

RIVER_CASE(creators_have_names_and_versions)
{
    int32_t count = 0;
    IPluginCreatorInterface* const* const list = creators(count);
    REQUIRE_EQUAL(count, 3);
    std::set<std::string> names;
    for (int32_t i = 0; i < count; ++i)
    {
        InterfaceInfo const info = list[i]->getInterfaceInfo();
        REQUIRE_EQUAL(std::string(info.kind), "PLUGIN CREATOR_V3ONE");
        auto& one = *static_cast<IPluginCreatorV3One*>(list[i]);
        REQUIRE_EQUAL(std::string(one.getPluginVersion()), "1");
        REQUIRE_EQUAL(std::string(one.getPluginNamespace()), "river_trt");
        names.insert(one.getPluginName());
    }
    REQUIRE(names == (std::set<std::string>{"RiverLinear", "RiverGate", "RiverAttention"}));
}

RIVER_CASE(creators_list_their_fields)
{
    PluginFieldCollection const& fields = *creator("RiverGate").getFieldNames();
    std::vector<std::string> names;
    for (int32_t i = 0; i < fields.nbFields; ++i)
    {
        REQUIRE(fields.fields[i].type == PluginFieldType::kINT32);
        names.emplace_back(fields.fields[i].name);
    }
    REQUIRE(names
        == (std::vector<std::string>{
            "layer", "num_layers", "residual", "direction", "programmatic"}));
}

RIVER_CASE(plugins_have_the_creators_names)
{
    for (layers::Layer& layer : layers::every_layer(DataType::kHALF))
    {
        auto const plugin = create(layer.plugin, layer.fields);
        REQUIRE_EQUAL(std::string(core(*plugin).getPluginName()), layer.plugin);
        REQUIRE_EQUAL(std::string(core(*plugin).getPluginVersion()), "1");
        REQUIRE_EQUAL(std::string(core(*plugin).getPluginNamespace()), "river_trt");
        REQUIRE_EQUAL(std::string(build(*plugin).getInterfaceInfo().kind), "PLUGIN_V3ONE_BUILD");
        REQUIRE_EQUAL(build(*plugin).getNbOutputs(), layer.num_outputs());
    }
}

RIVER_CASE(missing_fields_are_named)
{
    require_refused("RiverGate", Fields().add("layer", 2), {"field num_layers is missing"});
    require_refused("RiverGate", Fields(), {"field layer is missing"});
    require_refused("RiverAttention", Fields().add("num_heads", 6).add("num_kv_heads", 2),
        {"field scale is missing"});
    REQUIRE(creator("RiverGate").createPlugin(nullptr, nullptr, TensorRTPhase::kBUILD) == nullptr);
}

RIVER_CASE(unknown_and_doubled_fields_are_named)
{
    require_refused(
        "RiverLinear", linear_fields().add("grup_size", 32), {"unknown field 'grup_size'"});
    require_refused(
        "RiverLinear", linear_fields().add("group_size", 32), {"field group_size is given twice"});
}

RIVER_CASE(ill_typed_fields_are_named)
{
    require_refused(
        "RiverLinear", Fields().add("group_size", 32.0F), {"field group_size is an integer"});
    require_refused("RiverAttention",
        Fields().add("num_heads", 6).add("num_kv_heads", 2).add("scale", 1),
        {"field scale is a float32"});
    int32_t const two[2] = {32, 64};
    require_refused("RiverLinear",
        Fields().add_raw("group_size", PluginFieldType::kINT32, two, sizeof two, 2),
        {"field group_size has 2 values; it takes one"});
    require_refused("RiverLinear", Fields().add("group_size", int64_t{1} << 40),
        {"group_size", "does not fit 32 bits"});
    float const nan = std::numeric_limits<float>::quiet_NaN();
    require_refused("RiverAttention",
        Fields().add("num_heads", 6).add("num_kv_heads", 2).add("scale", nan),
        {"field scale = nan is not finite"});
}

RIVER_CASE(a_field_without_data_is_refused)
{
    PluginField const field("group_size", nullptr, PluginFieldType::kINT32, 1);
    PluginFieldCollection const fields{1, &field};
    require_logged({"field group_size has 0 values"}, [&] {
        REQUIRE(
            creator("RiverLinear").createPlugin("a", &fields, TensorRTPhase::kBUILD) == nullptr);
    });
}

RIVER_CASE(values_out_of_range_are_named_with_the_rule)
{
    require_refused("RiverLinear", Fields(), {"group_size = 0, but must be one of 32, 64, 128"});
    require_refused(
        "RiverLinear", Fields().add("group_size", 48), {"group_size = 48", "32, 64, 128"});
    require_refused("RiverLinear", linear_fields().add("banks", 3), {"banks = 3", "0, 1, 2"});
    require_refused("RiverLinear", linear_fields().add("prefill", 2), {"prefill = 2", "0, 1"});
    require_refused("RiverLinear", linear_fields().add("bias", 2), {"bias = 2", "0, 1"});
    require_refused(
        "RiverLinear", Fields().add("banks", 1).add("zero_points", 1), {"banks = 1 has none"});
    require_refused("RiverLinear", linear_fields().add("norm", 1), {"norm_eps = 0", "above 0"});
    require_refused(
        "RiverLinear", linear_fields().add("silu_mul", 1).add("residual", 1), {"set one of them"});
    require_refused("RiverGate", Fields().add("layer", 0).add("num_layers", 6),
        {"layer = 0, but must be 1 to 6"});
    require_refused("RiverGate", Fields().add("layer", 7).add("num_layers", 6),
        {"layer = 7, but must be 1 to 6"});
    require_refused("RiverGate", Fields().add("layer", 1).add("num_layers", 0), {"num_layers = 0"});
    require_refused("RiverGate", gate_fields().add("direction", -1), {"direction = -1"});
    require_refused("RiverAttention",
        Fields().add("num_heads", 6).add("num_kv_heads", 4).add("scale", 1.0F),
        {"num_heads = 6, but must be a multiple of num_kv_heads = 4"});
    require_refused("RiverAttention",
        Fields().add("num_heads", 6).add("num_kv_heads", 0).add("scale", 1.0F),
        {"num_kv_heads = 0"});
    require_refused("RiverAttention",
        Fields().add("num_heads", 6).add("num_kv_heads", 2).add("scale", 0.0F),
        {"scale = 0, but must be above 0"});
    require_refused("RiverAttention", attention_fields().add("window", -1), {"window = -1"});
    require_refused("RiverAttention", attention_fields().add("softcap", -1.0F), {"softcap = -1"});
    require_refused("RiverAttention", attention_fields().add("rotary", 2), {"rotary = 2"});
}

RIVER_CASE(what_the_onnx_parser_adds_is_no_unknown_field)
{
    char const version[] = "1";
    Fields fields = linear_fields();
    fields.add_raw("plugin_version", PluginFieldType::kCHAR, version, sizeof version, 2);
    fields.add_raw("plugin_namespace", PluginFieldType::kCHAR, version, sizeof version, 2);
    REQUIRE(try_create("RiverLinear", fields) != nullptr);
}

// An engine keeps a plugin's fields and makes the plugin from them again: of every form.
RIVER_CASE(serialised_fields_make_the_same_plugin)
{
    for (layers::Layer& layer : layers::every_layer(DataType::kBF16))
    {
        auto plugin = create(layer.plugin, layer.fields);
        Fields copy = Fields::copy_of(*runtime(*plugin).getFieldsToSerialize());
        std::unique_ptr<IPluginV3> clone(plugin->clone());
        plugin.reset(); // the copies must not point into it
        REQUIRE(clone != nullptr);
        auto& names = creator(layer.plugin);
        std::unique_ptr<IPluginV3> again(
            names.createPlugin("layers.3.x", copy.get(), TensorRTPhase::kRUNTIME));
        REQUIRE(again != nullptr);
        std::unique_ptr<IPluginV3> attached(runtime(*again).attachToContext(nullptr));
        REQUIRE(attached != nullptr && attached != again);
        again.reset();
        PluginFieldCollection const& expected = *copy.get();
        REQUIRE_EQUAL(expected.nbFields, names.getFieldNames()->nbFields);
        for (IPluginV3* one : {clone.get(), attached.get()})
        {
            PluginFieldCollection const& fields = *runtime(*one).getFieldsToSerialize();
            REQUIRE_EQUAL(fields.nbFields, expected.nbFields);
            for (int32_t i = 0; i < fields.nbFields; ++i)
            {
                REQUIRE_EQUAL(
                    std::string(fields.fields[i].name), std::string(expected.fields[i].name));
                REQUIRE(fields.fields[i].type == expected.fields[i].type
                    && fields.fields[i].length == 1);
                REQUIRE(std::memcmp(fields.fields[i].data, expected.fields[i].data, 4) == 0);
            }
            REQUIRE_EQUAL(build(*one).getNbOutputs(), layer.num_outputs());
        }
    }
}

RIVER_CASE(given_fields_are_serialised_with_their_values)
{
    auto const plugin = create(
        "RiverAttention", attention_fields().add("window", int64_t{4096}).add("softcap", 30.0F));
    PluginFieldCollection const& fields = *runtime(*plugin).getFieldsToSerialize();
    int32_t found = 0;
    for (int32_t i = 0; i < fields.nbFields; ++i)
    {
        std::string const name = fields.fields[i].name;
        if (name == "window" && ++found > 0)
            REQUIRE_EQUAL(*static_cast<int32_t const*>(fields.fields[i].data), 4096);
        if (name == "softcap" && ++found > 0)
            REQUIRE_EQUAL(*static_cast<float const*>(fields.fields[i].data), 30.0F);
        if (name == "packed_qkv" && ++found > 0) // a default is written out
            REQUIRE_EQUAL(*static_cast<int32_t const*>(fields.fields[i].data), 1);
    }
    REQUIRE_EQUAL(found, 3);
}
