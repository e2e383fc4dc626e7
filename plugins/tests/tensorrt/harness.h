// Named cases over the plugin library, each run in a process of its own: host_test LIBRARY CASE.
#pragma once
#include "host.h"

#include <functional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace harness
{
using namespace nvinfer1;

struct Case
{
    char const* name;
    std::function<void()> run;
};

std::vector<Case>& cases();

struct Register
{
    Register(char const* name, std::function<void()> run)
    {
        cases().push_back({name, std::move(run)});
    }
};

#define RIVER_CASE(name)                                                                           \
    static void name();                                                                            \
    static harness::Register const register_##name(#name, name);                                   \
    static void name()

[[noreturn]] void fail(char const* file, int line, std::string const& text);

#define REQUIRE(condition)                                                                         \
    do                                                                                             \
    {                                                                                              \
        if (!(condition))                                                                          \
            harness::fail(__FILE__, __LINE__, #condition);                                         \
    } while (false)

template <typename A, typename B>
void require_equal(char const* file, int line, A const& actual, B const& expected)
{
    if (!(actual == expected))
    {
        std::ostringstream text;
        text << actual << " is not " << expected;
        fail(file, line, text.str());
    }
}

#define REQUIRE_EQUAL(actual, expected) harness::require_equal(__FILE__, __LINE__, actual, expected)

// Creators of the library under test, and its log.
IPluginCreatorInterface* const* creators(int32_t& count);
IPluginCreatorV3One& creator(std::string const& name);
host::Logger& logger();

// The plugin made from these fields, or nullptr.
std::unique_ptr<IPluginV3> try_create(std::string const& name, host::Fields fields);
// The same, and a failure of the case where it is refused.
std::unique_ptr<IPluginV3> create(std::string const& name, host::Fields fields);

// Runs `body`, which must log one line that holds every text of `parts`.
void require_logged(std::vector<std::string> const& parts, std::function<void()> const& body);

inline IPluginV3OneCore& core(IPluginV3& plugin)
{
    return *static_cast<IPluginV3OneCore*>(
        plugin.getCapabilityInterface(PluginCapabilityType::kCORE));
}
inline IPluginV3OneBuildV2& build(IPluginV3& plugin)
{
    return *static_cast<IPluginV3OneBuildV2*>(
        plugin.getCapabilityInterface(PluginCapabilityType::kBUILD));
}
inline IPluginV3OneRuntime& runtime(IPluginV3& plugin)
{
    return *static_cast<IPluginV3OneRuntime*>(
        plugin.getCapabilityInterface(PluginCapabilityType::kRUNTIME));
}

} // namespace harness
