// y[m, n] = x[m, k] * w[n, k]^T on the tensor cores, from a library that is loaded at run time.
#pragma once

#include "launch.h"

namespace river
{
struct Gemm
{
    DataType type = DataType::kHalf;
    int64_t m = 0;
    int64_t n = 0;
    int64_t k = 0;
    void const* x = nullptr; // [m, k], dense
    void const* w = nullptr; // [n, k], dense
    void* y = nullptr;       // [m, n], rows y_stride elements apart
    int64_t y_stride = 0;
    void* workspace = nullptr;
    size_t workspace_bytes = 0;
};

constexpr size_t kGemmWorkspaceBytes = size_t{32} << 20; // what cuBLAS advises for Hopper

cudaError_t gemm(Gemm const& g, cudaStream_t stream);
} // namespace river
