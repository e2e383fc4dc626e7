// The softmax of attention in base 2: scores are multiplied by log2(e) once, with the scale.
#pragma once

#include "numeric.cuh"

namespace river
{
constexpr float kLog2e = 1.4426950408889634F;

#if defined(RIVER_CPU_SHIM)
inline float exp2_fast(float x)
{
    return std::exp2(x);
}
#else
__device__ __forceinline__ float exp2_fast(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
#endif

// What is subtracted in the exponent; finite where no key has been visible yet.
__device__ __forceinline__ float shift_of(float maximum)
{
    return maximum == -INFINITY ? 0.F : maximum;
}

// 2^x is e^(2 score / cap), of which this is cap * tanh(score / cap), but in base 2: by one
// exponential, with an error of the size of cap * 1e-7.
__device__ __forceinline__ float softcapped(float x, float cap)
{
    return kLog2e * cap - divide_fast(2.F * kLog2e * cap, 1.F + exp2_fast(x));
}

// Of some keys and one query: the largest score and the sum of 2^(score - largest).
struct Softmax
{
    float maximum;
    float sum;
};

// Some elements of a query's output, added up over parts of the keys.
struct MergedOutput
{
    float maximum = -INFINITY;
    float sum = 0.F;
    float out[4] = {0.F, 0.F, 0.F, 0.F};

    // Several parts at a time, so that their loads are under way together; a part without a visible
    // key has the maximum -inf and the sum 0.
    template <int kParts>
    __device__ __forceinline__ void add(
        Softmax const (&parts)[kParts], float4 const (&outs)[kParts])
    {
        float largest = maximum;
#pragma unroll
        for (int i = 0; i < kParts; ++i)
            largest = fmaxf(largest, parts[i].maximum);
        float const shift = shift_of(largest);
        float const kept = exp2_fast(maximum - shift);
        maximum = largest;
        sum *= kept;
#pragma unroll
        for (int d = 0; d < 4; ++d)
            out[d] *= kept;
#pragma unroll
        for (int i = 0; i < kParts; ++i)
        {
            float const weight = exp2_fast(parts[i].maximum - shift);
            sum += parts[i].sum * weight;
            out[0] += outs[i].x * weight;
            out[1] += outs[i].y * weight;
            out[2] += outs[i].z * weight;
            out[3] += outs[i].w * weight;
        }
    }

    // And what the lane has that is `offset` away.
    __device__ __forceinline__ void add_lane(int offset)
    {
        Softmax const part[1] = {
            {__shfl_xor_sync(kAllLanes, maximum, offset), __shfl_xor_sync(kAllLanes, sum, offset)}};
        float4 const other[1] = {make_float4(__shfl_xor_sync(kAllLanes, out[0], offset),
            __shfl_xor_sync(kAllLanes, out[1], offset), __shfl_xor_sync(kAllLanes, out[2], offset),
            __shfl_xor_sync(kAllLanes, out[3], offset))};
        add(part, other);
    }
};
} // namespace river
