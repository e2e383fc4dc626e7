// The kernels' workspace: its first bytes are zero before the first launch, and every launch leaves
// them so; the rest may hold anything. TensorRT's own workspace is scratch that layers share, so each
// plugin owns its memory.
#pragma once
#include "launch.h"

#include <cstddef>

namespace river::trt
{

class DeviceBuffer
{
public:
    DeviceBuffer() = default;
    // A plugin's copy is for another context, whose launches may run at the same time: it starts empty.
    DeviceBuffer(DeviceBuffer const&) noexcept
    {
    }
    DeviceBuffer& operator=(DeviceBuffer const&) = delete;
    ~DeviceBuffer()
    {
        if (data_ != nullptr)
            static_cast<void>(cudaFree(data_));
    }

    // At least `bytes`, of which the first `zero_bytes` are zero. Where it has to grow it allocates
    // and waits for the device; steps of other shapes within its size cost nothing.
    void prepare(size_t bytes, size_t zero_bytes)
    {
        if (bytes <= bytes_ && zero_bytes <= zero_bytes_)
            return;
        if (bytes > bytes_)
        {
            if (data_ != nullptr)
                require_cuda(cudaFree(data_), "freeing a plugin's workspace");
            data_ = nullptr;
            bytes_ = zero_bytes_ = 0;
            require_cuda(cudaMalloc(&data_, bytes), "allocating a plugin's workspace");
            bytes_ = bytes;
        }
        zero_bytes_ = 0; // nothing is prepared until all below has worked
        require_cuda(cudaDeviceSynchronize(), "waiting for the device"); // earlier launches use it
        require_cuda(cudaMemset(data_, 0, zero_bytes), "clearing a plugin's workspace");
        require_cuda(
            cudaDeviceSynchronize(), "waiting for the device"); // TensorRT's stream does not
        zero_bytes_ = zero_bytes;
    }

    void* data() const noexcept
    {
        return data_;
    }
    size_t bytes() const noexcept
    {
        return bytes_;
    }

private:
    void* data_{nullptr};
    size_t bytes_{0};
    size_t zero_bytes_{0};
};

} // namespace river::trt
