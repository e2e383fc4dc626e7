// gemm() in double precision on the host: what stands in for cuBLASLt in the CPU tests.
#include "gemm.h"

#include <vector>

#include "numeric.cuh"

namespace river
{
namespace
{
template <typename T>
void multiply(Gemm const& g)
{
    std::vector<float> w(g.n * g.k);
    for (int64_t i = 0; i < g.n * g.k; ++i)
        w[i] = Numeric<T>::load(g.w, i);
    std::vector<float> x(g.k);
    for (int64_t row = 0; row < g.m; ++row)
    {
        for (int64_t k = 0; k < g.k; ++k)
            x[k] = Numeric<T>::load(g.x, row * g.k + k);
        for (int64_t n = 0; n < g.n; ++n)
        {
            double sum = 0.0;
            for (int64_t k = 0; k < g.k; ++k)
                sum += static_cast<double>(x[k]) * w[n * g.k + k];
            Numeric<T>::store(g.y, row * g.y_stride + n, static_cast<float>(sum));
        }
    }
}
} // namespace

cudaError_t gemm(Gemm const& g, cudaStream_t)
{
    if (g.workspace_bytes != kGemmWorkspaceBytes)
        return cudaErrorInvalidValue;
    g.type == DataType::kHalf ? multiply<__half>(g) : multiply<__nv_bfloat16>(g);
    return cudaSuccess;
}

cudaError_t load_prefill_library()
{
    return cudaSuccess;
}
} // namespace river
