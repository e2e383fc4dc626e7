// The only exported symbols: what IPluginRegistry::loadLibrary and trtexec look up.
#include "attention_plugin.h"
#include "gate_plugin.h"
#include "linear_plugin.h"

#define RIVER_EXPORT extern "C" __attribute__((visibility("default")))

RIVER_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count)
{
    static river::trt::Creator<river::trt::LinearPlugin> linear;
    static river::trt::Creator<river::trt::GatePlugin> gate;
    static river::trt::Creator<river::trt::AttentionPlugin> attention;
    static nvinfer1::IPluginCreatorInterface* const creators[]{&linear, &gate, &attention};
    count = 3;
    return creators;
}

RIVER_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder)
{
    river::trt::setLoggerFinder(finder);
}
