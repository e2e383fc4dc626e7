// Products of fine rows and 8-bit codes with AVX-512 VNNI: included by the file compiled for it.
//
// A fine row's codes are two planes: code = 256 * high + low, a byte each. y is the sum over the groups
// of the high bytes' products; then those of the low ones are added, of the few groups that have them.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "fine_sums_avx512.h"
#include "group_products_avx512.h"
#include "kernel_loops.h"
#include "kernels.h"

namespace river
{
namespace
{

// Adds a group's products, scaled, to a tile's sums.
template <size_t kRows, size_t kPanels, bool kLow>
inline void add_group(QuantisedPanels const* weight, size_t g, FineRow const* const* x,
    __m512i const (&dots)[kRows * kPanels], __m512 (&sums)[kRows * kPanels])
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

// y = the sum of the high bytes' products.
template <size_t kRows, size_t kPanels>
void high_tile(QuantisedPanels const* weight, FineRow const* x, float* y, size_t y_stride)
{
    __m512 sums[kRows * kPanels];
    RIVER_UNROLL
    for (size_t i = 0; i < kRows * kPanels; ++i)
        sums[i] = _mm512_setzero_ps();
    FineRow const* rows[kRows];
    int8_t const* codes[kRows];
    RIVER_UNROLL
    for (size_t r = 0; r < kRows; ++r)
    {
        rows[r] = x + r;
        codes[r] = x[r].codes;
    }
    for (size_t g = 0; g < weight->groups(); ++g)
    {
        __m512i dots[kRows * kPanels];
        multiply_group<8, kRows, kPanels>(weight, g, codes, true, dots);
        add_group<kRows, kPanels, false>(weight, g, rows, dots, sums);
    }
    RIVER_UNROLL
    for (size_t r = 0; r < kRows; ++r)
    {
        RIVER_UNROLL
        for (size_t p = 0; p < kPanels; ++p)
            _mm512_storeu_ps(y + r * y_stride + p * kPanel, sums[r * kPanels + p]);
    }
}

// Adds the products of a group's low bytes to y, of panels from `first` on.
template <size_t kRows, size_t kPanels>
inline void low_tile(QuantisedPanels const& weight, size_t first, size_t g, FineRow const* const* x,
    int8_t const* const* codes, float* const* y)
{
    QuantisedPanels panels[kPanels];
    RIVER_UNROLL
    for (size_t p = 0; p < kPanels; ++p)
        panels[p] = weight.from(first + p);
    __m512i dots[kRows * kPanels];
    multiply_group<8, kRows, kPanels>(panels, g, codes, false, dots);
    __m512 sums[kRows * kPanels];
    RIVER_UNROLL
    for (size_t r = 0; r < kRows; ++r)
    {
        RIVER_UNROLL
        for (size_t p = 0; p < kPanels; ++p)
            sums[r * kPanels + p] = _mm512_loadu_ps(y[r] + (first + p) * kPanel);
    }
    add_group<kRows, kPanels, true>(panels, g, x, dots, sums);
    RIVER_UNROLL
    for (size_t r = 0; r < kRows; ++r)
    {
        RIVER_UNROLL
        for (size_t p = 0; p < kPanels; ++p)
            _mm512_storeu_ps(y[r] + (first + p) * kPanel, sums[r * kPanels + p]);
    }
}

template <size_t kRows>
void low_rows(QuantisedPanels const& weight, size_t panels, size_t g, FineRow const* const* x,
    float* const* y)
{
    int8_t const* codes[kRows];
    for (size_t r = 0; r < kRows; ++r)
        codes[r] = x[r]->codes + weight.groups() * weight.group_size;
    size_t p = 0;
    for (; p + 2 <= panels; p += 2)
        low_tile<kRows, 2>(weight, p, g, x, codes, y);
    if (p < panels)
        low_tile<kRows, 1>(weight, p, g, x, codes, y);
}

// A type of this file: a vector of any other would leave functions with this file's instructions to all
// others.
struct LowRow
{
    uint32_t number;
};

// Adds the products of the low bytes to y [rows, panels * 16], a group after the other.
void add_low(QuantisedPanels const& weight, size_t panels, FineRow const* x, size_t rows, float* y)
{
    // The rows that have low bytes: of each group how many, and then which.
    thread_local std::vector<LowRow> found;
    size_t const groups = weight.groups(), stride = rows + 2;
    found.resize(groups * stride);
    for (size_t g = 0; g < groups; ++g)
        found[g * stride].number = 0;
    for (uint32_t row = 0; row < rows; ++row)
    {
        for (size_t g = 0; g < groups; ++g)
        {
            LowRow* const of = &found[g * stride];
            of[1 + of->number].number = row; // for good where the row has low bytes
            of->number += x[row].low[g] != 0;
        }
    }
    for (size_t g = 0; g < groups; ++g)
    {
        LowRow const* const of = &found[g * stride];
        for (size_t start = 0; start < of->number; start += kMaxRows)
        {
            FineRow const* some[kMaxRows];
            float* to[kMaxRows];
            size_t const count = std::min<size_t>(kMaxRows, of->number - start);
            for (size_t r = 0; r < count; ++r)
            {
                size_t const row = of[1 + start + r].number;
                some[r] = x + row;
                to[r] = y + row * panels * kPanel;
            }
            with_rows(count, [&](auto all) { low_rows<all>(weight, panels, g, some, to); });
        }
    }
}

template <size_t kPanels>
void high_rows(
    QuantisedPanels const* weight, FineRow const* x, size_t rows, float* y, size_t y_stride)
{
    with_rows(rows, [&](auto count) { high_tile<count, kPanels>(weight, x, y, y_stride); });
}

void fine(QuantisedPanels const& weight, size_t panels, FineRow const* x, size_t rows, float* y)
{
    for (size_t row = 0; row < rows; row += kMaxRows)
    {
        size_t const block = std::min(kMaxRows, rows - row);
        float* out = y + row * panels * kPanel;
        size_t p = 0;
        if (block > 1)
        { // few rows read one stream of memory
            for (; p + 2 <= panels; p += 2)
            {
                QuantisedPanels const two[2] = {weight.from(p), weight.from(p + 1)};
                high_rows<2>(two, x + row, block, out + p * kPanel, panels * kPanel);
            }
        }
        for (; p < panels; ++p)
        {
            QuantisedPanels const one = weight.from(p);
            high_rows<1>(&one, x + row, block, out + p * kPanel, panels * kPanel);
        }
    }
    add_low(weight, panels, x, rows, y);
}

// Inputs start .. start + 16 of a row; zeros behind its end.
inline __m512 load_row(float const* x, size_t start, size_t inputs)
{
    if (start + 16 <= inputs)
        return _mm512_loadu_ps(x + start);
    size_t const left = inputs > start ? inputs - start : 0;
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << left) - 1), x + start);
}

// A group's codes, in both planes or in the high one; the planes' sums.
template <bool kBoth>
inline int32_t round_group(float const* x, size_t start, size_t size, size_t inputs, float inverse,
    int8_t* high_codes, int8_t* low_codes)
{
    __m512i high_sum = _mm512_setzero_si512(), low_sum = high_sum;
    for (size_t k = start; k < start + size; k += 16)
    {
        __m512i code =
            _mm512_cvtps_epi32(_mm512_mul_ps(load_row(x, k, inputs), _mm512_set1_ps(inverse)));
        __m512i high = _mm512_max_epi32(code, _mm512_set1_epi32(-128));
        if constexpr (kBoth)
        { // saturates where x is not finite
            code = _mm512_max_epi32(code, _mm512_set1_epi32(-32768));
            high = _mm512_srai_epi32(_mm512_add_epi32(code, _mm512_set1_epi32(128)), 8);
            __m512i const low = _mm512_sub_epi32(code, _mm512_slli_epi32(high, 8));
            low_sum = _mm512_add_epi32(low_sum, low);
            _mm_storeu_si128(reinterpret_cast<__m128i*>(low_codes + k), _mm512_cvtepi32_epi8(low));
        }
        high_sum = _mm512_add_epi32(high_sum, high);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(high_codes + k), _mm512_cvtepi32_epi8(high));
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
