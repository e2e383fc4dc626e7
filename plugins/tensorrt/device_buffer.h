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
        if (mData != nullptr)
            static_cast<void>(cudaFree(mData));
    }

    // At least `bytes`, of which the first `zeroBytes` are zero. Where it has to grow it allocates
    // and waits for the device; steps of other shapes within its size cost nothing.
    void prepare(size_t bytes, size_t zeroBytes)
    {
        if (bytes <= mBytes && zeroBytes <= mZeroBytes)
            return;
        if (bytes > mBytes)
        {
            if (mData != nullptr)
                requireCuda(cudaFree(mData), "freeing a plugin's workspace");
            mData = nullptr;
            mBytes = mZeroBytes = 0;
            requireCuda(cudaMalloc(&mData, bytes), "allocating a plugin's workspace");
            mBytes = bytes;
        }
        mZeroBytes = 0; // nothing is prepared until all below has worked
        requireCuda(cudaDeviceSynchronize(), "waiting for the device"); // earlier launches use it
        requireCuda(cudaMemset(mData, 0, zeroBytes), "clearing a plugin's workspace");
        requireCuda(
            cudaDeviceSynchronize(), "waiting for the device"); // TensorRT's stream does not
        mZeroBytes = zeroBytes;
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
    size_t mZeroBytes{0};
};

} // namespace river::trt
