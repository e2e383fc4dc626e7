// Thread block clusters (sm_90 and later): neighbours along x that run at the same time and may
// write each other's shared memory. Elsewhere these do nothing and no launcher asks for a cluster.
#pragma once

#include "platform.cuh"

namespace river
{
#if defined(RIVER_CPU_SHIM)

// What lies at `mine` of this block, in the shared memory of block `rank` of the cluster.
template <typename T>
T* of_block(T* mine, int rank)
{
    return reinterpret_cast<T*>(
        shim::Block::current().shared_of(rank, reinterpret_cast<char*>(mine)));
}
// The barrier of all threads of the cluster in two halves: what was written before the first half,
// in any block's shared memory, is there after the second. Where nothing was written, and the
// barrier only says that this block has read its own, `done` spares a fence.
inline void arrive_in_cluster()
{
    shim::Block::current().arrive_in_cluster();
}
inline void arrive_in_cluster_done()
{
    shim::Block::current().arrive_in_cluster();
}
inline void wait_in_cluster()
{
    shim::Block::current().wait_in_cluster();
}
inline int max_cluster_blocks()
{
    return 16;
}
inline void prefetch_to_l2(void const*)
{
}
template <typename Args>
cudaError_t launch_clusters(
    void (*kernel)(Args), dim3 grid, int threads, int blocks, Args const& args, bool, cudaStream_t)
{
    shim::run(kernel, grid, threads, args, static_cast<unsigned>(blocks));
    return cudaSuccess;
}

#else

template <typename T>
__device__ __forceinline__ T* of_block(T* mine, int rank)
{
    T* theirs = mine;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm("mapa.u64 %0, %1, %2;" : "=l"(theirs) : "l"(mine), "r"(rank));
#else
    (void)rank;
#endif
    return theirs;
}
__device__ __forceinline__ void arrive_in_cluster()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.release;" ::: "memory");
#endif
}
__device__ __forceinline__ void arrive_in_cluster_done()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory");
#endif
}
__device__ __forceinline__ void wait_in_cluster()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
#endif
}

__device__ __forceinline__ void prefetch_to_l2(void const* line)
{
    asm volatile("prefetch.global.L2 [%0];" ::"l"(line));
}

// More than 8 blocks are a privilege of data centre parts (sm_90, sm_100).
inline int max_cluster_blocks()
{
    int device = 0;
    int major = 0;
    if (cudaGetDevice(&device) != cudaSuccess
        || cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess)
        return 1;
    return major < 9 ? 1 : major <= 10 ? 16 : 8;
}

template <typename Args>
cudaError_t launch_clusters(void (*kernel)(Args), dim3 grid, int threads, int blocks,
    Args const& args, bool programmatic, cudaStream_t stream)
{
    if (blocks > 8)
    {
        cudaError_t const error =
            cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
        if (error != cudaSuccess)
            return error;
    }
    cudaLaunchAttribute attributes[2]{};
    attributes[0].id = cudaLaunchAttributeClusterDimension;
    attributes[0].val.clusterDim = {static_cast<unsigned>(blocks), 1U, 1U};
    attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[1].val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.stream = stream;
    config.attrs = attributes;
    config.numAttrs = programmatic ? 2 : 1;
    return cudaLaunchKernelEx(&config, kernel, args);
}

#endif
} // namespace river
