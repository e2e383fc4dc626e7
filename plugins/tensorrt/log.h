// Messages to the host's logger, and the exception that carries one out of a check.
#pragma once
#include <NvInferRuntime.h>

#include <stdexcept>
#include <string>

namespace river::trt
{

// Something the network or the caller gave is wrong; what() names the value and the rule.
class Invalid : public std::invalid_argument
{
public:
    using std::invalid_argument::invalid_argument;
};

void setLoggerFinder(nvinfer1::ILoggerFinder* finder) noexcept;

// One line to the host's logger, or to stderr where no host has set a logger finder.
void log_error(char const* plugin, char const* layer, char const* text) noexcept;

std::string format(char const* pattern, ...) __attribute__((format(printf, 1, 2)));

// TensorRT's entry points may not throw: runs `body`, logs what it throws, returns 0 or -1.
template <typename Body>
int32_t guarded(char const* plugin, char const* layer, Body&& body) noexcept
{
    try
    {
        body();
        return 0;
    }
    catch (std::exception const& error)
    {
        log_error(plugin, layer, error.what());
        return -1;
    }
}

} // namespace river::trt
