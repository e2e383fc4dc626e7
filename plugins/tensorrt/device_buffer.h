// Zeroed device memory that one plugin in one execution context owns: the counters of the kernels.
#pragma once
#include "launch.h"

namespace river::trt
{

class DeviceBuffer
{
public:
    DeviceBuffer() = default;
    // A plugin's copy is for another context, whose launches may run at the same time: it starts empty.
    DeviceBuffer(DeviceBuffer const&) noexcept {}
    DeviceBuffer& operator=(DeviceBuffer const&) = delete;
    ~DeviceBuffer()
    {
        if (mData != nullptr)
            static_cast<void>(cudaFree(mData));
    }

    // Grows to `bytes`, all zero. Not for enqueue: it allocates, and waits for the device.
    void reserve(size_t bytes)
    {
        if (bytes <= mBytes)
            return;
        void* data = nullptr;
        requireCuda(cudaMalloc(&data, bytes), "cudaMalloc of a plugin's counters");
        cudaError_t status = cudaMemset(data, 0, bytes);
        if (status == cudaSuccess)
            status = cudaDeviceSynchronize(); // TensorRT's stream does not wait for the default one
        if (status != cudaSuccess)
        {
            static_cast<void>(cudaFree(data));
            requireCuda(status, "clearing a plugin's counters");
        }
        if (mData != nullptr)
            static_cast<void>(cudaFree(mData));
        mData = data;
        mBytes = bytes;
    }

    void* data() const noexcept
    {
        return mData;
    }
    size_t bytes() const noexcept
    {
        return mBytes;
    }

private:
    void* mData{nullptr};
    size_t mBytes{0};
};

} // namespace river::trt
