// The two activation types behind one set of names.
#pragma once

#include "launch.h"
#include "platform.cuh"

namespace river
{
template <typename T>
struct Numeric;

// kMagic | code is the number kMagicValue + code in each half of a word, for codes 0..15: so four
// bits become a number with one logic operation, exactly.
template <>
struct Numeric<__half>
{
    using Pair = __half2;
    static constexpr uint32_t kMagic = 0x64006400U;
    static constexpr float kMagicValue = 1024.F;

    static RIVER_BOTH float2 unpack(uint32_t pair)
    {
        return __half22float2(bits<__half2>(pair));
    }
    static RIVER_BOTH uint32_t pack(float low, float high)
    {
        return bits<uint32_t>(__floats2half2_rn(low, high));
    }
    static RIVER_BOTH float load(void const* p, size_t i)
    {
        return __half2float(static_cast<__half const*>(p)[i]);
    }
    static RIVER_BOTH void store(void* p, size_t i, float value)
    {
        static_cast<__half*>(p)[i] = __float2half_rn(value);
    }
    static RIVER_BOTH Pair both(float value)
    {
        return __float2half2_rn(value);
    }
};

template <>
struct Numeric<__nv_bfloat16>
{
    using Pair = __nv_bfloat162;
    static constexpr uint32_t kMagic = 0x43004300U;
    static constexpr float kMagicValue = 128.F;

    static RIVER_BOTH float2 unpack(uint32_t pair)
    {
        return __bfloat1622float2(bits<__nv_bfloat162>(pair));
    }
    static RIVER_BOTH uint32_t pack(float low, float high)
    {
        return bits<uint32_t>(__floats2bfloat162_rn(low, high));
    }
    static RIVER_BOTH float load(void const* p, size_t i)
    {
        return __bfloat162float(static_cast<__nv_bfloat16 const*>(p)[i]);
    }
    static RIVER_BOTH void store(void* p, size_t i, float value)
    {
        static_cast<__nv_bfloat16*>(p)[i] = __float2bfloat16_rn(value);
    }
    static RIVER_BOTH Pair both(float value)
    {
        return __float2bfloat162_rn(value);
    }
};

template <typename T>
__device__ __forceinline__ T rounded(float value)
{
    if constexpr (sizeof(T) == sizeof(float))
        return value;
    else
        return bits<T>(static_cast<uint16_t>(Numeric<T>::pack(value, 0.F)));
}

// Eight values of T in 16 bytes, to and from fp32.
template <typename T>
__device__ __forceinline__ void unpack8(uint4 const& packed, float (&values)[8])
{
    uint32_t const words[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
    for (int i = 0; i < 4; ++i)
    {
        float2 const pair = Numeric<T>::unpack(words[i]);
        values[2 * i] = pair.x;
        values[2 * i + 1] = pair.y;
    }
}

template <typename T>
__device__ __forceinline__ uint4 pack8(float const (&values)[8])
{
    return make_uint4(Numeric<T>::pack(values[0], values[1]),
        Numeric<T>::pack(values[2], values[3]), Numeric<T>::pack(values[4], values[5]),
        Numeric<T>::pack(values[6], values[7]));
}

// Four floats, and half of what store16 stores.
__device__ __forceinline__ float4 load_floats(float const* p)
{
    return bits<float4>(load16(p));
}
__device__ __forceinline__ void store_floats(float* p, float a, float b, float c, float d)
{
    store16(p, bits<uint4>(make_float4(a, b, c, d)));
}
__device__ __forceinline__ void store8(void* p, uint2 v)
{
    *static_cast<uint2*>(p) = v;
}

// Byte address of element i of an array of T (or of any 2-byte type).
__device__ __forceinline__ char const* at16(void const* base, size_t i)
{
    return static_cast<char const*>(base) + 2 * i;
}
__device__ __forceinline__ char* at16(void* base, size_t i)
{
    return static_cast<char*>(base) + 2 * i;
}

RIVER_BOTH bool load_flag(void const* flags, FlagType type, size_t i)
{
    return type == FlagType::kBool ? static_cast<uint8_t const*>(flags)[i] != 0
                                   : static_cast<int32_t const*>(flags)[i] != 0;
}
RIVER_BOTH void store_flag(void* flags, FlagType type, size_t i, bool value)
{
    if (type == FlagType::kBool)
        static_cast<uint8_t*>(flags)[i] = value ? 1 : 0;
    else
        static_cast<int32_t*>(flags)[i] = value ? 1 : 0;
}
} // namespace river
