// From TensorRT's descriptions and results to those of kernels/launch.h, and back.
#pragma once
#include "../kernels/launch.h"
#include "log.h"

#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

namespace river::trt
{

// The type of activations; signatures let no other types through.
inline DataType activation_type(nvinfer1::DataType type)
{
    return type == nvinfer1::DataType::kHALF ? DataType::kHalf : DataType::kBfloat16;
}

inline int32_t size32(int64_t size)
{
    return static_cast<int32_t>(size);
}

// Sizes of a profile's largest shapes; -1 where the network has no profile for the tensor.
inline nvinfer1::Dims largest(nvinfer1::DynamicPluginTensorDesc const& tensor)
{
    nvinfer1::Dims dims = tensor.desc.dims;
    for (int32_t i = 0; i < dims.nbDims && i < tensor.max.nbDims; ++i)
    {
        if (dims.d[i] == -1)
            dims.d[i] = tensor.max.d[i];
    }
    return dims;
}

// Throws Invalid with `explanation` (of explain_*, nullptr where no rule is broken) or CUDA's text.
inline void require_launched(cudaError_t status, char const* explanation)
{
    if (status == cudaSuccess)
        return;
    if (status == cudaErrorInvalidValue && explanation != nullptr)
        throw Invalid(explanation);
    throw Invalid(format("the kernel was not launched: %s", cudaGetErrorString(status)));
}

inline void require_cuda(cudaError_t status, char const* what)
{
    if (status != cudaSuccess)
        throw Invalid(format("%s failed: %s", what, cudaGetErrorString(status)));
}

} // namespace river::trt
