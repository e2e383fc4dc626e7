// What AVX-512 and AMX do with a group's products of fine rows: to the bit the same.
#pragma once

#include <immintrin.h>

#include "kernels.h"

namespace river
{

// A group's two sums: of the high bytes, negative, in the lower half, and of the low bytes. Zero points
// lie in the half of the sum that they are multiplied with.
inline int32_t fine_sums(int32_t high, int32_t low)
{
    return static_cast<int32_t>(
        static_cast<uint32_t>(-low) << 16 | (static_cast<uint32_t>(-high) & 0xffff));
}

// The zero points of a panel's group, in the halves of the high or of the low bytes' sums.
template <bool kLow>
inline __m512i fine_zeros(QuantisedPanels const& weight, size_t g)
{
    if (weight.zero_points == nullptr)
        return _mm512_set1_epi32(kLow ? 8 << 16 : 8);
    auto const* at = reinterpret_cast<__m128i const*>(weight.zero_points + g * kPanel);
    __m512i const zero = _mm512_cvtepu8_epi32(_mm_loadu_si128(at));
    return kLow ? _mm512_slli_epi32(zero, 16) : zero;
}

// What a group's products add to y: the whole numbers, scaled.
inline __m512 add_scaled(
    __m512i dots, __m512i zero, int32_t sums, float scale, __m512 scales, __m512 y)
{
    __m512i const whole = _mm512_dpwssd_epi32(dots, zero, _mm512_set1_epi32(sums));
    return _mm512_fmadd_ps(
        _mm512_mul_ps(_mm512_cvtepi32_ps(whole), _mm512_set1_ps(scale)), scales, y);
}

} // namespace river
