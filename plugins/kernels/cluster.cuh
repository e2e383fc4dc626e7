// Thread block clusters (sm_90 and later): neighbours along x that run at the same time and send to
// each other's shared memory. Elsewhere these do nothing and no launcher asks for a cluster.
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
// The barrier of all threads of the cluster in two halves. It tells that all blocks have started, and
// orders nothing else.
inline void arrive_in_cluster()
{
    shim::Block::current().arrive_in_cluster();
}
inline void wait_in_cluster()
{
    shim::Block::current().wait_in_cluster();
}
// Counts the bytes that other blocks send into this block's shared memory. One thread says how many
// there will be, before the block arrives in the cluster.
struct Arrivals
{
    uint64_t word;
};
inline void expect(Arrivals& arrivals, int bytes)
{
    arrivals.word = static_cast<uint64_t>(bytes);
}
// `value` to where `mine` lies in block `rank`, whose `arrivals` are told.
template <typename T>
void send(T* mine, T const& value, Arrivals& arrivals, int rank)
{
    shim::store(of_block(mine, rank), value);
    uint64_t& left = of_block(&arrivals, rank)->word;
    if (left < sizeof(T))
        shim::die("more bytes are sent to a block than it expects");
    left -= sizeof(T);
}
inline void wait_for(Arrivals& arrivals)
{
    shim::Block::current().wait_until([&] { return arrivals.word == 0; });
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

__device__ __forceinline__ void arrive_in_cluster()
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

struct Arrivals // an mbarrier
{
    uint64_t word;
};
__device__ __forceinline__ uint32_t shared_address(void const* shared)
{
    return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}
__device__ __forceinline__ void expect(Arrivals& arrivals, int bytes)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    uint32_t const barrier = shared_address(&arrivals);
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;\n\t"
                 "fence.mbarrier_init.release.cluster;\n\t"
                 "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier),
        "r"(bytes)
        : "memory");
#else
    (void)arrivals, (void)bytes;
#endif
}
// No fence and no second barrier: a store tells the receiver's mbarrier of its own bytes.
template <typename T>
__device__ __forceinline__ void send(T* mine, T const& value, Arrivals& arrivals, int rank)
{
    static_assert(sizeof(T) == 8 || sizeof(T) == 16, "one store");
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    uint32_t to;
    uint32_t barrier;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(to) : "r"(shared_address(mine)), "r"(rank));
    asm("mapa.shared::cluster.u32 %0, %1, %2;"
        : "=r"(barrier)
        : "r"(shared_address(&arrivals)), "r"(rank));
    if constexpr (sizeof(T) == 16)
    {
        uint4 const v = bits<uint4>(value);
        asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 "
                     "[%0], {%1, %2, %3, %4}, [%5];" ::"r"(to),
            "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w), "r"(barrier)
            : "memory");
    }
    else
    {
        uint2 const v = bits<uint2>(value);
        asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 "
                     "[%0], {%1, %2}, [%3];" ::"r"(to),
            "r"(v.x), "r"(v.y), "r"(barrier)
            : "memory");
    }
#else
    (void)mine, (void)value, (void)arrivals, (void)rank;
#endif
}
__device__ __forceinline__ void wait_for(Arrivals& arrivals)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    uint32_t const barrier = shared_address(&arrivals);
    uint32_t done = 0;
    while (done == 0)
        asm volatile("{\n\t.reg .pred p;\n\t"
                     "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], 0;\n\t"
                     "selp.u32 %0, 1, 0, p;\n\t}"
            : "=r"(done)
            : "r"(barrier)
            : "memory");
#else
    (void)arrivals;
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
