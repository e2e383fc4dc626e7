// What the operators share: argument checks, scratch memory, the current stream.
#pragma once
#include "../kernels/launch.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/version.h>

#include <limits>
#include <optional>

#if !defined(RIVER_CPU_SHIM) && (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR < 13)
#define RIVER_STREAM_FROM_C10_CUDA
#include <c10/cuda/CUDAStream.h>
#endif

namespace river::torch_ops
{

// The tests build these sources for the CPU shim of plugins/tests/kernels, where tensors are the host's.
#if defined(RIVER_CPU_SHIM)
inline constexpr c10::DeviceType kDevice = c10::DeviceType::CPU;
#define RIVER_DISPATCH CPU
#else
inline constexpr c10::DeviceType kDevice = c10::DeviceType::CUDA;
#define RIVER_DISPATCH CUDA
#endif

inline cudaStream_t current_stream(c10::Device device)
{
#if defined(RIVER_CPU_SHIM)
    static_cast<void>(device);
    return nullptr;
#elif defined(RIVER_STREAM_FROM_C10_CUDA)
    return c10::cuda::getCurrentCUDAStream(device.index()).stream();
#else
    // By way of libc10 alone: the library then loads into any torch, with CUDA or without.
    auto const stream = c10::impl::VirtualGuardImpl(device.type()).getStream(device);
    return static_cast<cudaStream_t>(stream.native_handle());
#endif
}

inline DataType activation_type(char const* op, at::Tensor const& x)
{
    TORCH_CHECK(x.scalar_type() == at::kHalf || x.scalar_type() == at::kBFloat16, op,
        ": activations are ", x.scalar_type(), "; the kernels take float16 and bfloat16");
    return x.scalar_type() == at::kHalf ? DataType::kHalf : DataType::kBfloat16;
}

using OptionalTensor = std::optional<at::Tensor>;

// The data of a dense tensor of that type and shape on the operator's device; -1 matches any size.
inline void const* checked(char const* op, char const* name, at::Tensor const& tensor,
    at::ScalarType type, at::IntArrayRef shape, c10::Device device)
{
    TORCH_CHECK(tensor.scalar_type() == type, op, ": ", name, " is ", tensor.scalar_type(),
        ", but must be ", type);
    bool same = tensor.dim() == static_cast<int64_t>(shape.size());
    for (size_t i = 0; same && i < shape.size(); ++i)
        same = shape[i] == -1 || tensor.sizes()[i] == shape[i];
    TORCH_CHECK(same, op, ": ", name, " is ", tensor.sizes(), ", but must be ", shape);
    TORCH_CHECK(
        tensor.device() == device, op, ": ", name, " is on ", tensor.device(), ", x on ", device);
    TORCH_CHECK(tensor.is_contiguous(), op, ": ", name, " must be contiguous");
    return tensor.const_data_ptr();
}

inline void const* checked(char const* op, char const* name, OptionalTensor const& tensor,
    at::ScalarType type, at::IntArrayRef shape, c10::Device device)
{
    return tensor.has_value() ? checked(op, name, *tensor, type, shape, device) : nullptr;
}

inline int32_t narrow(char const* op, char const* name, int64_t value)
{
    TORCH_CHECK(value >= 0 && value <= std::numeric_limits<int32_t>::max(), op, ": ", name, " = ",
        value, ", but must fit 31 bits");
    return static_cast<int32_t>(value);
}

inline at::Tensor scratch(size_t bytes, c10::Device device)
{
    return at::empty(
        {static_cast<int64_t>(bytes)}, at::TensorOptions().dtype(at::kByte).device(device));
}

inline at::Tensor zeroed_scratch(size_t bytes, c10::Device device)
{
    return at::zeros(
        {static_cast<int64_t>(bytes)}, at::TensorOptions().dtype(at::kByte).device(device));
}

// The caller's workspace, zero before its first launch and left so by each; without one, zeros that
// cost a clear on every call.
inline at::Tensor workspace_or(
    char const* op, OptionalTensor const& given, size_t bytes, c10::Device device)
{
    if (!given.has_value())
        return zeroed_scratch(bytes, device);
    checked(op, "workspace", *given, at::kByte, {-1}, device);
    TORCH_CHECK(static_cast<size_t>(given->numel()) >= bytes, op, ": workspace has ",
        given->numel(), " bytes, but ", bytes, " are needed");
    return *given;
}

inline void require_launched(char const* op, cudaError_t status, char const* explanation)
{
    TORCH_CHECK(status != cudaErrorInvalidValue || explanation == nullptr, op, ": ", explanation);
    TORCH_CHECK(
        status == cudaSuccess, op, ": the kernel was not launched: ", cudaGetErrorString(status));
}

} // namespace river::torch_ops
