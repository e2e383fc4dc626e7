// What the kernels need from their surroundings: CUDA's headers under nvcc, the fibers of
// tests/kernels/cuda_cpu_shim.h under -DRIVER_CPU_SHIM (a plain C++ compiler, no GPU).
#pragma once

#include <cstdint>
#include <cstring>

#if defined(RIVER_CPU_SHIM)
#include "cuda_cpu_shim.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

// RIVER_SHARED(part, float[4][8]): the macro lets the shim give each block its own poisoned copy.
#define RIVER_SHARED(name, ...) __shared__::river::Identity<__VA_ARGS__> name
// The bytes that launch() was given, aligned to 128.
#define RIVER_DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]
#endif

#define RIVER_BOTH __host__ __device__ __forceinline__ // on the device and in the host's tests

namespace river
{
template <typename T>
using Identity = T;

constexpr int kWarpSize = 32;
constexpr uint32_t kAllLanes = 0xffffffffU;

template <typename To, typename From>
RIVER_BOTH To bits(From const& from)
{
    static_assert(sizeof(To) == sizeof(From), "same size");
    To to;
    memcpy(static_cast<void*>(&to), &from, sizeof(To));
    return to;
}

#if defined(RIVER_CPU_SHIM)

inline float divide_fast(float a, float b)
{
    return a / b;
}
inline uint4 load_stream(void const* p)
{
    return shim::load<uint4>(p);
}
inline uint4 load16(void const* p)
{
    return shim::load<uint4>(p);
}
inline void store16(void* p, uint4 v)
{
    shim::store(p, v);
}
template <typename T>
T load_shared_by_blocks(T const* p)
{
    return shim::load<T>(p);
}
template <int kBytes>
void copy_async(void* shared, void const* global)
{
    shim::copy_async(shared, global, kBytes);
}
inline void commit_copies()
{
    shim::commit_copies();
}
inline void copy_async_or_zero(void* shared, void const* global, bool valid)
{
    shim::copy_async(shared, valid ? global : nullptr, 16);
}
template <int kPending>
void wait_copies()
{
    shim::wait_copies(kPending);
}
inline void wait_for_predecessor()
{
}
inline void let_successor_start()
{
}

inline int multiprocessors()
{
    return shim::multiprocessors();
}
inline size_t most_shared_bytes()
{
    return shim::kMaxDynamicSharedBytes;
}

template <typename Args>
cudaError_t launch(void (*kernel)(Args), dim3 grid, int threads, Args const& args, bool,
    cudaStream_t, size_t shared_bytes = 0)
{
    shim::run(kernel, grid, threads, args, 1U, shared_bytes);
    return cudaSuccess;
}

#else

__device__ __forceinline__ float divide_fast(float a, float b)
{
    return __fdividef(a, b);
}

// Weights: read once, so they pass L1 by and leave it to the activations.
__device__ __forceinline__ uint4 load_stream(void const* p)
{
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
        : "l"(p));
    return v;
}
__device__ __forceinline__ uint4 load16(void const* p)
{
    return *static_cast<uint4 const*>(p);
}
__device__ __forceinline__ void store16(void* p, uint4 v)
{
    *static_cast<uint4*>(p) = v;
}
// Copies to shared memory in the background, 8 or 16 bytes a thread. A thread that waits sees its
// own copies; all but the last kPending groups that it committed are complete.
template <int kBytes>
__device__ __forceinline__ void copy_async(void* shared, void const* global)
{
    uint32_t const to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    if constexpr (kBytes == 16)
        asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to), "l"(global)
            : "memory");
    else
        asm volatile("cp.async.ca.shared.global.L2::128B [%0], [%1], 8;" ::"r"(to), "l"(global)
            : "memory");
}
__device__ __forceinline__ void copy_async_or_zero(
    void* shared, void const* global, bool valid) // 16 bytes
{
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(
                     static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
        "l"(global), "r"(valid ? 16 : 0)
        : "memory");
}
__device__ __forceinline__ void commit_copies()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void wait_copies()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}
// What another block of this launch has written: past L1, which is not coherent.
template <typename T>
__device__ __forceinline__ T load_shared_by_blocks(T const* p)
{
    return __ldcg(p);
}

// Programmatic dependent launch. Every kernel of this folder waits for its predecessor before it
// touches what any kernel before it may write, and only then lets its successor start. So when a
// kernel starts, all but its predecessor are complete: what they wrote may be read at once, and
// weights, which nobody writes, too.
__device__ __forceinline__ void wait_for_predecessor()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void let_successor_start()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

inline int device_attribute(cudaDeviceAttr attribute)
{
    int device = 0;
    int value = 0;
    bool const known = cudaGetDevice(&device) == cudaSuccess
        && cudaDeviceGetAttribute(&value, attribute, device) == cudaSuccess;
    return known ? value : 0;
}
inline int multiprocessors()
{
    return device_attribute(cudaDevAttrMultiProcessorCount);
}
inline size_t most_shared_bytes() // of a block
{
    return static_cast<size_t>(device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
}
inline bool has_programmatic_launch()
{
    return device_attribute(cudaDevAttrComputeCapabilityMajor) >= 9;
}

template <typename Args>
cudaError_t launch(void (*kernel)(Args), dim3 grid, int threads, Args const& args,
    bool programmatic, cudaStream_t stream, size_t shared_bytes = 0)
{
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    config.attrs = &attribute;
    constexpr size_t kWithoutAsking = size_t{48} << 10; // a kernel must ask for more
    if (shared_bytes > kWithoutAsking)
    {
        cudaError_t const error = cudaFuncSetAttribute(reinterpret_cast<void const*>(kernel),
            cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
        if (error != cudaSuccess)
            return error;
    }
    config.numAttrs = programmatic && has_programmatic_launch() ? 1 : 0;
    return cudaLaunchKernelEx(&config, kernel, args);
}

#endif

// The sum over each group of kLanes neighbouring lanes, in all of them.
template <int kLanes = kWarpSize, typename T>
__device__ __forceinline__ T warp_sum(T value)
{
#pragma unroll
    for (int offset = kLanes / 2; offset > 0; offset /= 2)
        value += __shfl_xor_sync(kAllLanes, value, offset);
    return value;
}

// True in every thread of the block that comes last of `total`; it then sees what the others
// wrote before they called this, through load_shared_by_blocks. Leaves the counter at zero, so
// that a captured graph can be replayed.
__device__ __forceinline__ bool arrives_last(uint32_t* counter, uint32_t total)
{
    RIVER_SHARED(last, bool[1]);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0)
    {
        last[0] = atomicAdd(counter, 1U) == total - 1;
        if (last[0])
            *counter = 0;
    }
    __syncthreads();
    if (last[0])
        __threadfence();
    return last[0];
}
} // namespace river
