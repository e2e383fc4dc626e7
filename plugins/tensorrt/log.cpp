#include "log.h"

#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <vector>

namespace river::trt
{
namespace
{
std::atomic<nvinfer1::ILoggerFinder*> g_finder{nullptr};
}

void setLoggerFinder(nvinfer1::ILoggerFinder* finder) noexcept
{
    g_finder.store(finder);
}

void log_error(char const* plugin, char const* layer, char const* text) noexcept
{
    char line[1024]; // on the stack: this may report that memory ran out
    std::snprintf(line, sizeof line, "%s '%s': %s", plugin, layer, text);
    nvinfer1::ILoggerFinder* const finder = g_finder.load();
    nvinfer1::ILogger* const logger = finder != nullptr ? finder->findLogger() : nullptr;
    if (logger != nullptr)
        logger->log(nvinfer1::ILogger::Severity::kERROR, line);
    else
        std::fprintf(stderr, "%s\n", line);
}

std::string format(char const* pattern, ...)
{
    va_list arguments;
    va_start(arguments, pattern);
    va_list again;
    va_copy(again, arguments);
    int const length = std::vsnprintf(nullptr, 0, pattern, arguments);
    va_end(arguments);
    std::string text(static_cast<size_t>(length < 0 ? 0 : length), '\0');
    std::vsnprintf(text.data(), text.size() + 1, pattern, again);
    va_end(again);
    return text;
}

} // namespace river::trt
