// The products of a group of inputs with AVX-512 VNNI, which all quantised weights have in common:
// included by the file compiled for it.
#pragma once

#include <immintrin.h>

#include "kernel_loops.h"
#include "kernels.h"

// Loops over an array of registers: unrolled early, or the compiler keeps the array in memory.
#define RIVER_UNROLL _Pragma("GCC unroll 16")

namespace river
{
namespace
{

// Four inputs of 16 columns, a byte each.
template <int kBits>
inline __m512i four_inputs(uint8_t const* codes)
{
    if constexpr (kBits == 8)
        return _mm512_loadu_si512(codes);
    __m256i const bytes = _mm256_loadu_si256(reinterpret_cast<__m256i const*>(codes));
    __m512i const both =
        _mm512_inserti64x4(_mm512_castsi256_si512(bytes), _mm256_srli_epi16(bytes, 4), 1);
    return _mm512_and_si512(both, _mm512_set1_epi8(15));
}

inline __m512i four_values(int8_t const* at)
{
    int32_t value;
    __builtin_memcpy(&value, at, 4);
    return _mm512_set1_epi32(value);
}

// A sum stays in its register; GCC 12 copies it there and back.
inline __m512i in_place(__m512i sum)
{
    asm("" : "+v"(sum));
    return sum;
}

// A group's products of some rows' codes and some panels: whole numbers, in two chains where a tile is
// small and waits for itself.
template <int kBits, size_t kRows, size_t kPanels>
inline void multiply_group(QuantisedPanels const* weight, size_t g, int8_t const* const* x,
    bool ahead, __m512i (&dots)[kRows * kPanels])
{
    constexpr size_t kTile = kRows * kPanels, kChains = kTile < 4 ? 2 : 1;
    size_t const size = weight->group_size;
    __m512i sums[kTile * kChains];
    RIVER_UNROLL
    for (size_t i = 0; i < kTile * kChains; ++i)
        sums[i] = _mm512_setzero_si512();
    uint8_t const* codes[kPanels];
    RIVER_UNROLL
    for (size_t p = 0; p < kPanels; ++p)
        codes[p] = weight[p].codes + g * size * kPanel * kBits / 8;
    for (size_t k = g * size; k < (g + 1) * size; k += 8)
    {
        RIVER_UNROLL
        for (size_t half = 0; half < 2; ++half)
        {
            __m512i w[kPanels];
            RIVER_UNROLL
            for (size_t p = 0; p < kPanels; ++p)
            {
                if (ahead && (kBits == 8 || half == 0))
                    prefetch(codes[p] + kAhead);
                w[p] = four_inputs<kBits>(codes[p]);
                codes[p] += 8 * kBits;
            }
            size_t const chain = half % kChains * kTile;
            RIVER_UNROLL
            for (size_t r = 0; r < kRows; ++r)
            {
                __m512i const values = four_values(x[r] + k + 4 * half);
                RIVER_UNROLL
                for (size_t p = 0; p < kPanels; ++p)
                {
                    __m512i& to = sums[chain + r * kPanels + p];
                    to = in_place(_mm512_dpbusd_epi32(to, w[p], values));
                }
            }
        }
    }
    RIVER_UNROLL
    for (size_t i = 0; i < kTile; ++i)
        dots[i] =
            kChains == 2 ? _mm512_add_epi32(sums[i], sums[kTile * (kChains - 1) + i]) : sums[i];
}

} // namespace
} // namespace river
