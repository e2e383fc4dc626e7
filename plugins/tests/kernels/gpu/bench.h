// What the programs that time kernels share.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <vector>

#include <cuda_runtime.h>

namespace river::bench
{
#define REQUIRE(call)                                                                              \
    do                                                                                             \
    {                                                                                              \
        cudaError_t const error_ = (call);                                                         \
        if (error_ != cudaSuccess)                                                                 \
        {                                                                                          \
            std::fprintf(stderr, "%s: %s\n", #call, cudaGetErrorString(error_));                   \
            std::exit(1);                                                                          \
        }                                                                                          \
    } while (false)

// Codes at random; every 16-bit part is a small finite number of fp16 and bf16, so scales are too.
static __global__ void fill_kernel(uint32_t* words, size_t count)
{
    size_t const stride = static_cast<size_t>(gridDim.x) * blockDim.x;
    for (size_t i = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
        i += stride)
    {
        uint32_t h = static_cast<uint32_t>(i) * 2654435761U + 12345U;
        h ^= h >> 15;
        h *= 2246822519U;
        h ^= h >> 13;
        words[i] = (h & 0x83ff83ffU) | 0x28002800U;
    }
}

inline char* allocate(size_t bytes, void (*fill)(uint32_t*, size_t) = fill_kernel)
{
    char* p = nullptr;
    REQUIRE(cudaMalloc(&p, bytes));
    fill<<<1024, 256>>>(reinterpret_cast<uint32_t*>(p), bytes / 4);
    REQUIRE(cudaDeviceSynchronize());
    return p;
}

// Microseconds of a launch: the median of some replays of a CUDA graph of `launches` of them, after
// a warm-up. launch_one(i, stream) is called for i = 0 .. launches - 1.
inline double time_launches(int launches,
    std::function<cudaError_t(int, cudaStream_t)> const& launch_one, int warm_ups = 1,
    int replays = 6)
{
    cudaStream_t stream = nullptr;
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < launches; ++i)
        REQUIRE(launch_one(i, stream));
    REQUIRE(cudaStreamEndCapture(stream, &graph));
    REQUIRE(cudaGraphInstantiate(&exec, graph, 0));
    cudaEvent_t begin = nullptr;
    cudaEvent_t end = nullptr;
    REQUIRE(cudaEventCreate(&begin));
    REQUIRE(cudaEventCreate(&end));
    std::vector<float> times;
    for (int replay = 0; replay < warm_ups + replays; ++replay)
    {
        REQUIRE(cudaEventRecord(begin, stream));
        REQUIRE(cudaGraphLaunch(exec, stream));
        REQUIRE(cudaEventRecord(end, stream));
        REQUIRE(cudaStreamSynchronize(stream));
        float ms = 0.F;
        REQUIRE(cudaEventElapsedTime(&ms, begin, end));
        if (replay >= warm_ups)
            times.push_back(ms);
    }
    std::sort(times.begin(), times.end());
    REQUIRE(cudaEventDestroy(begin));
    REQUIRE(cudaEventDestroy(end));
    REQUIRE(cudaGraphExecDestroy(exec));
    REQUIRE(cudaGraphDestroy(graph));
    REQUIRE(cudaStreamDestroy(stream));
    return 1000.0 * times[times.size() / 2] / launches;
}
} // namespace river::bench
