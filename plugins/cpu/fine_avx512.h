// Products of fine rows and 8-bit codes with AVX-512 VNNI: included by the file compiled for it.
//
// A fine row's codes are two planes: code = 256 * high + low, a byte each. y is the sum over the groups
// of the high bytes' products, and that of the low ones' where a group has low bytes: few have.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "fine_sums_avx512.h"
#include "kernel_loops.h"
#include "kernels.h"

// Loops over an array of registers: unrolled early, or the compiler keeps the array in memory.
#define RIVER_UNROLL _Pragma("GCC unroll 16")

namespace river
{
namespace
{

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

// Of a tile's rows and panels: whole numbers, in any order.
template <size_t kTile>
using Dots = __m512i[kTile];

// A group's products with the planes that start at `high` and, in a tile of both, at `low` of each row.
template <size_t kRows, size_t kPanels, bool kBoth>
inline void multiply_group(QuantisedPanels const* weight, size_t g, int8_t const* const* high,
    size_t low, bool ahead, Dots<kRows * kPanels>& dots, Dots<kRows * kPanels>& low_dots)
{
    // In two chains where a tile is small and waits for itself.
    constexpr size_t kTile = kRows * kPanels, kChains = kTile < 4 ? 2 : 1;
    size_t const size = weight->group_size;
    __m512i sums[2][kTile * kChains];
    RIVER_UNROLL
    for (size_t i = 0; i < kTile * kChains; ++i)
        sums[0][i] = sums[1][i] = _mm512_setzero_si512();
    uint8_t const* codes[kPanels];
    RIVER_UNROLL
    for (size_t p = 0; p < kPanels; ++p)
        codes[p] = weight[p].codes + g * size * kPanel;
    for (size_t k = 0; k < size; k += 8)
    {
        RIVER_UNROLL
        for (size_t half = 0; half < 2; ++half)
        {
            __m512i w[kPanels];
            RIVER_UNROLL
            for (size_t p = 0; p < kPanels; ++p)
            {
                if (ahead)
                    prefetch(codes[p] + kAhead);
                w[p] = _mm512_loadu_si512(codes[p]);
                codes[p] += 4 * kPanel;
            }
            size_t const chain = half % kChains * kTile;
            RIVER_UNROLL
            for (size_t plane = 0; plane < (kBoth ? 2 : 1); ++plane)
            {
                RIVER_UNROLL
                for (size_t r = 0; r < kRows; ++r)
                {
                    int8_t const* const at = high[r] + plane * low + g * size + k + 4 * half;
                    __m512i const values = four_values(at);
                    RIVER_UNROLL
                    for (size_t p = 0; p < kPanels; ++p)
                    {
                        __m512i& to = sums[plane][chain + r * kPanels + p];
                        to = in_place(_mm512_dpbusd_epi32(to, w[p], values));
                    }
                }
            }
        }
    }
    RIVER_UNROLL
    for (size_t i = 0; i < kTile; ++i)
    {
        size_t const other = (kChains - 1) * kTile + i;
        dots[i] = kChains == 2 ? _mm512_add_epi32(sums[0][i], sums[0][other]) : sums[0][i];
        low_dots[i] = kChains == 2 ? _mm512_add_epi32(sums[1][i], sums[1][other]) : sums[1][i];
    }
}

// Adds a group's products, scaled, to a tile's sums.
template <size_t kRows, size_t kPanels, bool kLow>
inline void add_group(QuantisedPanels const* weight, size_t g, FineRow const* const* x,
    Dots<kRows * kPanels> const& dots, __m512 (&sums)[kRows * kPanels])
{
    RIVER_UNROLL
    for (size_t p = 0; p < kPanels; ++p)
    {
        __m512i const zero = fine_zeros<kLow>(weight[p], g);
        __m512 const scales = _mm512_loadu_ps(weight[p].scales + g * kPanel);
        RIVER_UNROLL
        for (size_t r = 0; r < kRows; ++r)
        {
            size_t const i = r * kPanels + p;
            float const scale = kLow ? x[r]->scales[g] / 256 : x[r]->scales[g];
            sums[i] = add_scaled(dots[i], zero, x[r]->sums[g], scale, scales, sums[i]);
        }
    }
}

// y = the sum of the high bytes' products, and in a tile of both that of the low ones'.
template <size_t kRows, size_t kPanels, bool kBoth>
void fine_tile(QuantisedPanels const* weight, FineRow const* x, float* y, size_t y_stride)
{
    constexpr size_t kTile = kRows * kPanels;
    size_t const width = weight->groups() * weight->group_size;
    __m512 sums[kTile], low_sums[kTile];
    RIVER_UNROLL
    for (size_t i = 0; i < kTile; ++i)
        sums[i] = low_sums[i] = _mm512_setzero_ps();
    FineRow const* rows[kRows];
    int8_t const* high[kRows];
    RIVER_UNROLL
    for (size_t r = 0; r < kRows; ++r)
    {
        rows[r] = x + r;
        high[r] = x[r].codes;
    }
    for (size_t g = 0; g < weight->groups(); ++g)
    {
        uint8_t some = 0; // rows with low bytes; those of the others are zero
        for (size_t r = 0; kBoth && r < kRows; ++r)
            some |= x[r].low[g];
        Dots<kTile> dots, low_dots;
        if (some)
        {
            multiply_group<kRows, kPanels, kBoth>(weight, g, high, width, true, dots, low_dots);
            add_group<kRows, kPanels, true>(weight, g, rows, low_dots, low_sums);
        }
        else
        {
            multiply_group<kRows, kPanels, false>(weight, g, high, 0, true, dots, low_dots);
        }
        add_group<kRows, kPanels, false>(weight, g, rows, dots, sums);
    }
    RIVER_UNROLL
    for (size_t r = 0; r < kRows; ++r)
    {
        RIVER_UNROLL
        for (size_t p = 0; p < kPanels; ++p)
        {
            size_t const i = r * kPanels + p;
            _mm512_storeu_ps(y + r * y_stride + p * kPanel,
                kBoth ? _mm512_add_ps(sums[i], low_sums[i]) : sums[i]);
        }
    }
}

// Adds the products of one group's low bytes, of these rows, to y.
template <size_t kRows, size_t kPanels>
void low_tile(QuantisedPanels const* weight, size_t g, FineRow const* const* x, float* const* y)
{
    size_t const width = weight->groups() * weight->group_size;
    int8_t const* low[kRows];
    __m512 sums[kRows * kPanels];
    RIVER_UNROLL
    for (size_t r = 0; r < kRows; ++r)
    {
        low[r] = x[r]->codes + width;
        RIVER_UNROLL
        for (size_t p = 0; p < kPanels; ++p)
            sums[r * kPanels + p] = _mm512_loadu_ps(y[r] + p * kPanel);
    }
    Dots<kRows * kPanels> dots, none;
    multiply_group<kRows, kPanels, false>(weight, g, low, 0, false, dots, none);
    add_group<kRows, kPanels, true>(weight, g, x, dots, sums);
    RIVER_UNROLL
    for (size_t r = 0; r < kRows; ++r)
    {
        RIVER_UNROLL
        for (size_t p = 0; p < kPanels; ++p)
            _mm512_storeu_ps(y[r] + p * kPanel, sums[r * kPanels + p]);
    }
}

// The products of a group's low bytes, of `count` rows of this number, onto low [rows, panels * 16].
void add_group_low(QuantisedPanels const& weight, size_t panels, size_t g, FineRow const* x,
    uint32_t const* numbers, size_t count, float* low)
{
    FineRow const* rows[kMaxRows];
    for (size_t r = 0; r < count; ++r)
        rows[r] = x + numbers[r];
    auto const add = [&](auto together, size_t first)
    {
        QuantisedPanels of[together];
        float* at[kMaxRows];
        for (size_t p = 0; p < together; ++p)
            of[p] = weight.from(first + p);
        for (size_t r = 0; r < count; ++r)
            at[r] = low + (numbers[r] * panels + first) * kPanel;
        with_rows(count, [&](auto all) { low_tile<all, together>(of, g, rows, at); });
    };
    size_t p = 0;
    for (; p + 2 <= panels; p += 2)
        add(std::integral_constant<size_t, 2>(), p);
    if (p < panels)
        add(std::integral_constant<size_t, 1>(), p);
}

// Adds the sums of the low bytes' products to y [rows, panels * 16].
void add_low(QuantisedPanels const& weight, size_t panels, FineRow const* x, size_t rows, float* y)
{
    thread_local std::vector<float> low;
    thread_local std::vector<uint32_t> numbers,
        counts; // of the rows that have low bytes: [groups, rows], [groups]
    size_t const groups = weight.groups();
    low.assign(rows * panels * kPanel, 0.0f);
    numbers.resize(groups * rows + 1);
    counts.assign(groups, 0);
    for (uint32_t row = 0; row < rows; ++row)
    {
        for (size_t g = 0; g < groups; ++g)
        {
            numbers[g * rows + counts[g]] = row;
            counts[g] += x[row].low[g] != 0;
        }
    }
    for (size_t g = 0; g < groups; ++g)
    {
        for (size_t i = 0; i < counts[g]; i += kMaxRows)
        {
            add_group_low(weight, panels, g, x, &numbers[g * rows + i],
                std::min<size_t>(kMaxRows, counts[g] - i), low.data());
        }
    }
    for (size_t i = 0; i < low.size(); ++i)
        y[i] += low[i];
}

constexpr size_t kFew = 3; // rows whose planes are multiplied together

template <size_t kPanels>
void fine_rows(
    QuantisedPanels const* weight, FineRow const* x, size_t rows, float* y, size_t y_stride)
{
    with_rows(rows,
        [&](auto count) { fine_tile<count, kPanels, (count <= kFew)>(weight, x, y, y_stride); });
}

void fine(QuantisedPanels const& weight, size_t panels, FineRow const* x, size_t rows, float* y)
{
    size_t const each = rows > 1 ? 2 : 1; // few rows read one stream of memory
    for (size_t p = 0; p < panels; p += each)
    {
        for (size_t row = 0; row < rows; row += kMaxRows)
        {
            size_t const block = std::min(kMaxRows, rows - row);
            float* out = y + (row * panels + p) * kPanel;
            QuantisedPanels const two[2] = {weight.from(p), weight.from(p + 1)};
            if (each == 2 && p + 1 < panels)
                fine_rows<2>(two, x + row, block, out, panels * kPanel);
            else
                fine_rows<1>(two, x + row, block, out, panels * kPanel);
        }
    }
    size_t const rest = rows % kMaxRows;
    size_t const many = rows - (rest <= kFew ? rest : 0);
    if (many != 0)
        add_low(weight, panels, x, many, y);
}

// Inputs start .. start + 16 of a row; zeros behind its end.
inline __m512 load_row(float const* x, size_t start, size_t inputs)
{
    if (start + 16 <= inputs)
        return _mm512_loadu_ps(x + start);
    size_t const left = inputs > start ? inputs - start : 0;
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << left) - 1), x + start);
}

// A group's codes, of both planes or in the high one, with zeros in the low one; the planes' sums.
template <bool kBoth>
inline int32_t round_group(float const* x, size_t start, size_t size, size_t inputs, float inverse,
    int8_t* high_codes, int8_t* low_codes)
{
    __m512i high_sum = _mm512_setzero_si512(), low_sum = high_sum;
    for (size_t k = start; k < start + size; k += 16)
    {
        __m512i code =
            _mm512_cvtps_epi32(_mm512_mul_ps(load_row(x, k, inputs), _mm512_set1_ps(inverse)));
        __m512i high = _mm512_max_epi32(code, _mm512_set1_epi32(-128)), low = low_sum;
        if constexpr (kBoth)
        { // saturates where x is not finite
            code = _mm512_max_epi32(code, _mm512_set1_epi32(-32768));
            high = _mm512_srai_epi32(_mm512_add_epi32(code, _mm512_set1_epi32(128)), 8);
            low = _mm512_sub_epi32(code, _mm512_slli_epi32(high, 8));
            low_sum = _mm512_add_epi32(low_sum, low);
        }
        high_sum = _mm512_add_epi32(high_sum, high);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(high_codes + k), _mm512_cvtepi32_epi8(high));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(low_codes + k), _mm512_cvtepi32_epi8(low));
    }
    int32_t const low = kBoth ? _mm512_reduce_add_epi32(low_sum) : 0;
    return fine_sums(_mm512_reduce_add_epi32(high_sum), low);
}

void round_fine(float const* x, size_t inputs, size_t group_size, float coarse, int8_t* codes,
    float* scales, int32_t* sums, uint8_t* low_bytes)
{
    size_t const width = (inputs + group_size - 1) / group_size * group_size;
    float const least = coarse * std::sqrt(kAvx2.dot(x, x, inputs) / static_cast<float>(inputs));
    for (size_t start = 0, g = 0; start < inputs; start += group_size, ++g)
    {
        __m512 largest_16 = _mm512_setzero_ps();
        for (size_t k = start; k < start + group_size; k += 16)
            largest_16 = _mm512_max_ps(largest_16, _mm512_abs_ps(load_row(x, k, inputs)));
        float const largest = _mm512_reduce_max_ps(largest_16);
        bool const both = !(largest <= least);
        float const inverse = largest > 0.0f ? (both ? kMostFine : 127) / largest : 0.0f;
        sums[g] = (both ? round_group<true> : round_group<false>)(x, start, group_size, inputs,
            inverse, codes, codes + width);
        scales[g] = largest / 127.0f;
        low_bytes[g] = both;
    }
}

} // namespace
} // namespace river
