// What the operators share: argument checks, buffers.
#pragma once

#include <ATen/core/Tensor.h>

#include <initializer_list>
#include <optional>

#include "block.h"
#include "pool.h"

namespace river::torch_cpu
{

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

// The data of a dense CPU tensor of that type and shape; null for one that is not given.
template <typename T>
T const* data(
    char const* op, char const* name, Tensor const& tensor, std::initializer_list<int64_t> shape)
{
    constexpr auto kType = c10::CppTypeToScalarType<T>::value;
    TORCH_CHECK(tensor.scalar_type() == kType, op, ": ", name, " is ", tensor.scalar_type(),
        ", but must be ", kType);
    TORCH_CHECK(tensor.sizes() == at::IntArrayRef(shape.begin(), shape.size()), op, ": ", name,
        " is ", tensor.sizes(), ", but must be ", at::IntArrayRef(shape.begin(), shape.size()));
    TORCH_CHECK(tensor.is_cpu() && tensor.is_contiguous(), op, ": ", name,
        " must be contiguous and on the CPU");
    return static_cast<T const*>(tensor.const_data_ptr());
}

template <typename T>
T const* data(char const* op, char const* name, OptionalTensor const& tensor,
    std::initializer_list<int64_t> shape)
{
    return tensor.has_value() ? data<T>(op, name, *tensor, shape) : nullptr;
}

inline Scratch& scratch()
{
    static thread_local Scratch scratch;
    return scratch;
}

inline size_t unsigned_size(int64_t size)
{
    return static_cast<size_t>(size);
}

} // namespace river::torch_cpu
