// The CUDA runtime calls of the plugins on host memory, for the build over the CPU shim.
#include <cuda_runtime_api.h>

#include <cstdlib>
#include <cstring>

extern "C"
{

    // Set by a test for steps in which nothing may wait for the device.
    static bool refuses()
    {
        return std::getenv("RIVER_REFUSE_WAITS") != nullptr;
    }

    cudaError_t cudaMalloc(void** data, size_t bytes)
    {
        if (refuses())
            return cudaErrorNotPermitted;
        *data = std::malloc(bytes);
        if (*data == nullptr)
            return cudaErrorMemoryAllocation;
        std::memset(*data, 0xA5, bytes); // fresh device memory holds anything
        return cudaSuccess;
    }

    cudaError_t cudaFree(void* data)
    {
        std::free(data);
        return cudaSuccess;
    }

    cudaError_t cudaMemset(void* data, int value, size_t bytes)
    {
        std::memset(data, value, bytes);
        return cudaSuccess;
    }

    cudaError_t cudaMemcpyAsync(
        void* to, void const* from, size_t bytes, cudaMemcpyKind, cudaStream_t)
    {
        std::memcpy(to, from, bytes);
        return cudaSuccess;
    }

    cudaError_t cudaDeviceSynchronize()
    {
        return refuses() ? cudaErrorNotPermitted : cudaSuccess;
    }

    char const* cudaGetErrorString(cudaError_t)
    {
        return "an error of the CPU shim";
    }

} // extern "C"
