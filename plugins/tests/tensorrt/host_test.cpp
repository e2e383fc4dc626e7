// host_test LIBRARY        the names of the cases
// host_test LIBRARY CASE   runs one; exit code 0 where it passes
#include "harness.h"

#include <cstdio>
#include <cstdlib>

#include <dlfcn.h>

namespace harness
{
namespace
{
using GetCreators = IPluginCreatorInterface* const* (*)(int32_t&);
using SetLoggerFinder = void (*)(ILoggerFinder*);

GetCreators g_get_creators = nullptr;
host::LoggerFinder g_finder;

void* symbol(void* library, char const* name)
{
    void* const found = dlsym(library, name);
    if (found == nullptr)
    {
        std::fprintf(stderr, "%s\n", dlerror());
        std::exit(2);
    }
    return found;
}

} // namespace

std::vector<Case>& cases()
{
    static std::vector<Case> all;
    return all;
}

void fail(char const* file, int line, std::string const& text)
{
    std::fprintf(stderr, "%s:%d: %s\n", file, line, text.c_str());
    for (std::string const& logged : g_finder.logger.lines)
        std::fprintf(stderr, "  log: %s\n", logged.c_str());
    std::exit(1);
}

IPluginCreatorInterface* const* creators(int32_t& count)
{
    return g_get_creators(count);
}

IPluginCreatorV3One& creator(std::string const& name)
{
    int32_t count = 0;
    IPluginCreatorInterface* const* const list = creators(count);
    for (int32_t i = 0; i < count; ++i)
    {
        auto* const one = static_cast<IPluginCreatorV3One*>(list[i]);
        if (name == one->getPluginName())
            return *one;
    }
    fail(__FILE__, __LINE__, "no creator " + name);
}

host::Logger& logger()
{
    return g_finder.logger;
}

std::unique_ptr<IPluginV3> try_create(std::string const& name, host::Fields fields)
{
    return std::unique_ptr<IPluginV3>(
        creator(name).createPlugin("layers.3.x", fields.get(), TensorRTPhase::kBUILD));
}

std::unique_ptr<IPluginV3> create(std::string const& name, host::Fields fields)
{
    std::unique_ptr<IPluginV3> plugin = try_create(name, std::move(fields));
    REQUIRE(plugin != nullptr);
    return plugin;
}

void require_logged(std::vector<std::string> const& parts, std::function<void()> const& body)
{
    logger().lines.clear();
    body();
    REQUIRE_EQUAL(logger().lines.size(), size_t{1});
    for (std::string const& part : parts)
    {
        if (logger().lines[0].find(part) == std::string::npos)
            fail(__FILE__, __LINE__, "the log line does not hold '" + part + "'");
    }
    logger().lines.clear();
}

} // namespace harness

int main(int argc, char** argv)
{
    if (argc < 2 || argc > 3)
    {
        std::fprintf(stderr, "usage: host_test LIBRARY [CASE]\n");
        return 2;
    }
    void* const library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr)
    {
        std::fprintf(stderr, "%s\n", dlerror());
        return 2;
    }
    harness::g_get_creators =
        reinterpret_cast<harness::GetCreators>(harness::symbol(library, "getCreators"));
    auto const set_finder =
        reinterpret_cast<harness::SetLoggerFinder>(harness::symbol(library, "setLoggerFinder"));
    set_finder(&harness::g_finder);
    for (harness::Case const& one : harness::cases())
    {
        if (argc == 2)
            std::printf("%s\n", one.name);
        else if (std::string(argv[2]) == one.name)
        {
            one.run();
            return 0;
        }
    }
    return argc == 2 ? 0 : 2;
}
