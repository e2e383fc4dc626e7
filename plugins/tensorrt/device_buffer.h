// The kernels' workspace: zero before the first launch of a geometry, left ready for the next launch of
// the same one. TensorRT's own workspace is scratch that layers share, so each plugin owns its memory.
#pragma once
#include "launch.h"

#include <vector>

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

    // At least `bytes`, all zero where the geometry is another than last time. Not for enqueue: it may
    // allocate, and waits for the device.
    void prepare(size_t bytes, std::vector<int64_t> const& geometry)
    {
        if (geometry == mGeometry)
            return;
        mGeometry.clear(); // nothing is prepared until all below has worked
        if (bytes == 0)
        {
            mGeometry = geometry;
            return;
        }
        if (bytes > mBytes)
        {
            if (mData != nullptr)
                requireCuda(cudaFree(mData), "freeing a plugin's workspace");
            mData = nullptr;
            mBytes = 0;
            requireCuda(cudaMalloc(&mData, bytes), "allocating a plugin's workspace");
            mBytes = bytes;
        }
        requireCuda(cudaDeviceSynchronize(), "waiting for the device"); // earlier launches use it
        requireCuda(cudaMemset(mData, 0, mBytes), "clearing a plugin's workspace");
        requireCuda(
            cudaDeviceSynchronize(), "waiting for the device"); // TensorRT's stream does not
        mGeometry = geometry;
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
    std::vector<int64_t> mGeometry;
};

} // namespace river::trt
