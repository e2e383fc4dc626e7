// Products of fine rows and 8-bit codes with AVX2: included by the file compiled for it.
#pragma once

#include <immintrin.h>

#include <algorithm>

#include "kernel_loops.h"
#include "kernels.h"
#include "registers_avx2.h"

namespace river
{
namespace
{

// One group of 8-bit codes less their zero points, for rows that share it: of each four inputs,
// 16 bits each, the first and third of columns 0..7 and of 8..15, then the second and fourth.
void centre_group(
    uint8_t const* codes, size_t size, __m256i zero_low, __m256i zero_high, int16_t* out)
{
    __m256i const first = _mm256_set1_epi16(255);
    for (size_t k = 0; k < size; k += 4, codes += 64, out += 64)
    {
        prefetch(codes + kAhead);
        __m256i const low = load(codes), high = load(codes + 32);
        __m256i const of[4] = {_mm256_sub_epi16(_mm256_and_si256(low, first), zero_low),
            _mm256_sub_epi16(_mm256_and_si256(high, first), zero_high),
            _mm256_sub_epi16(_mm256_srli_epi16(low, 8), zero_low),
            _mm256_sub_epi16(_mm256_srli_epi16(high, 8), zero_high)};
        RIVER_UNROLL
        for (size_t i = 0; i < 4; ++i)
            _mm256_store_si256(reinterpret_cast<__m256i*>(out + 16 * i), of[i]);
    }
}

// y += dots * row scale * weight scale for 8 columns, on top of y where `add`.
inline void add_fine(__m256i dots, float scale, __m256 scales, bool add, float* y)
{
    __m256 const scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(dots), _mm256_set1_ps(scale));
    __m256 const before = add ? _mm256_loadu_ps(y) : _mm256_setzero_ps();
    _mm256_storeu_ps(y, _mm256_fmadd_ps(scaled, scales, before));
}

inline __m256i eight_zeros(uint8_t const* zero_points)
{
    if (zero_points == nullptr)
        return _mm256_set1_epi32(8);
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<__m128i const*>(zero_points)));
}

// A group of fine rows' dots less zero_points * sums, scaled, on top of y.
template <size_t kRows>
inline void scale_fine(QuantisedPanels const& weight, size_t g, FineRow const* x, bool centred,
    __m256i (&low)[kRows], __m256i (&high)[kRows], float* y, size_t y_stride)
{
    __m256 const scales_low = _mm256_loadu_ps(weight.scales + g * kPanel);
    __m256 const scales_high = _mm256_loadu_ps(weight.scales + g * kPanel + 8);
    if (!centred)
    {
        uint8_t const* zeros = weight.zero_points ? weight.zero_points + g * kPanel : nullptr;
        __m256i const zero_low = eight_zeros(zeros);
        __m256i const zero_high = eight_zeros(zeros ? zeros + 8 : nullptr);
        RIVER_UNROLL
        for (size_t r = 0; r < kRows; ++r)
        {
            __m256i const sum = _mm256_set1_epi32(x[r].sums[g]);
            low[r] = _mm256_sub_epi32(low[r], _mm256_mullo_epi32(zero_low, sum));
            high[r] = _mm256_sub_epi32(high[r], _mm256_mullo_epi32(zero_high, sum));
        }
    }
    RIVER_UNROLL
    for (size_t r = 0; r < kRows; ++r)
    {
        add_fine(low[r], x[r].scales[g], scales_low, g > 0, y + r * y_stride);
        add_fine(high[r], x[r].scales[g], scales_high, g > 0, y + r * y_stride + 8);
    }
}

// Dots of six rows with a group of centred weights. Its sums and what is added to them take all
// sixteen registers: a compiler that allots them itself copies some about, or keeps them in memory.
inline void six_rows(int16_t const* at, size_t size, int8_t const* const (&values)[kMaxRows],
    __m256i (&low)[kMaxRows], __m256i (&high)[kMaxRows])
{
    size_t byte = 0;
    // clang-format off
#define RIVER_SIX(what, of)                                                                        \
    what("0", of) what("1", of) what("2", of) what("3", of) what("4", of) what("5", of)
#define RIVER_ZERO(r, of) "vpxor %[" of r "], %[" of r "], %[" of r "]\n\t"
#define RIVER_ROW(r, offset)                                                                       \
    "vpbroadcastd " offset "(%[x" r "], %[byte]), %%ymm14\n\t"                                     \
    "vpmaddwd %%ymm14, %%ymm12, %%ymm15\n\t"                                                       \
    "vpmaddwd %%ymm14, %%ymm13, %%ymm14\n\t"                                                       \
    "vpaddd %%ymm15, %[l" r "], %[l" r "]\n\t"                                                     \
    "vpaddd %%ymm14, %[h" r "], %[h" r "]\n\t"
    asm volatile(
        RIVER_SIX(RIVER_ZERO, "l")
        RIVER_SIX(RIVER_ZERO, "h")
        "1:\n\t"
        "vmovdqa (%[at]), %%ymm12\n\t"
        "vmovdqa 32(%[at]), %%ymm13\n\t"
        RIVER_SIX(RIVER_ROW, "")
        "vmovdqa 64(%[at]), %%ymm12\n\t"
        "vmovdqa 96(%[at]), %%ymm13\n\t"
        RIVER_SIX(RIVER_ROW, "4")
        "add $128, %[at]\n\t"
        "add $8, %[byte]\n\t"
        "cmp %[end], %[byte]\n\t"
        "jb 1b"
        : [at] "+r"(at), [byte] "+r"(byte), [l0] "=&x"(low[0]), [l1] "=&x"(low[1]),
        [l2] "=&x"(low[2]), [l3] "=&x"(low[3]), [l4] "=&x"(low[4]), [l5] "=&x"(low[5]),
        [h0] "=&x"(high[0]), [h1] "=&x"(high[1]), [h2] "=&x"(high[2]), [h3] "=&x"(high[3]),
        [h4] "=&x"(high[4]), [h5] "=&x"(high[5])
        : [end] "r"(2 * size), [x0] "r"(values[0]), [x1] "r"(values[1]), [x2] "r"(values[2]),
        [x3] "r"(values[3]), [x4] "r"(values[4]), [x5] "r"(values[5])
        : "ymm12", "ymm13", "ymm14", "ymm15", "memory", "cc");
#undef RIVER_SIX
#undef RIVER_ZERO
#undef RIVER_ROW
    // clang-format on
}

// Two inputs of some rows.
template <size_t kRows>
inline void add_two(__m256i w_low, __m256i w_high, int8_t const* const (&values)[kRows],
    size_t input, __m256i (&low)[kRows], __m256i (&high)[kRows])
{
    RIVER_UNROLL
    for (size_t r = 0; r < kRows; ++r)
    {
        __m256i const two = four_bytes(values[r] + 2 * input);
        low[r] = _mm256_add_epi32(low[r], _mm256_madd_epi16(w_low, two));
        high[r] = _mm256_add_epi32(high[r], _mm256_madd_epi16(w_high, two));
        in_turn(low[r], high[r]);
    }
}

// Groups first .. end of some rows: of centre_group's weights.
template <size_t kRows>
void fine_centred(QuantisedPanels const& weight, int16_t const* at, size_t first, size_t end,
    FineRow const* x, float* y, size_t y_stride)
{
    size_t const size = weight.group_size;
    for (size_t g = first; g < end; ++g, at += size * kPanel)
    {
        __m256i low[kRows], high[kRows];
        int8_t const* values[kRows];
        RIVER_UNROLL
        for (size_t r = 0; r < kRows; ++r)
            values[r] = x[r].codes + 2 * g * size;
        if constexpr (kRows == kMaxRows)
        {
            six_rows(at, size, values, low, high);
        }
        else
        {
            RIVER_UNROLL
            for (size_t r = 0; r < kRows; ++r)
                low[r] = high[r] = _mm256_setzero_si256();
            for (size_t k = 0; k < size; k += 2)
            {
                int16_t const* two = at + k * kPanel;
                add_two(load(two), load(two + kPanel), values, k, low, high);
            }
        }
        scale_fine(weight, g, x, true, low, high, y, y_stride);
    }
}

// All groups of few rows: of the codes as they are.
template <size_t kRows>
void fine_few(QuantisedPanels const& weight, FineRow const* x, float* y, size_t y_stride)
{
    size_t const size = weight.group_size;
    __m256i const first = _mm256_set1_epi16(255);
    int8_t const* values[kRows];
    RIVER_UNROLL
    for (size_t r = 0; r < kRows; ++r)
        values[r] = x[r].codes;
    uint8_t const* at = weight.codes;
    for (size_t g = 0; g < weight.groups(); ++g)
    {
        __m256i low[kRows], high[kRows];
        RIVER_UNROLL
        for (size_t r = 0; r < kRows; ++r)
            low[r] = high[r] = _mm256_setzero_si256();
        for (size_t k = g * size; k < (g + 1) * size; k += 4, at += 64)
        {
            prefetch(at + kAhead);
            add_two(_mm256_and_si256(load(at), first), _mm256_and_si256(load(at + 32), first),
                values, k, low, high);
            add_two(_mm256_srli_epi16(load(at), 8), _mm256_srli_epi16(load(at + 32), 8), values,
                k + 2, low, high);
        }
        scale_fine(weight, g, x, false, low, high, y, y_stride);
    }
}

// Inputs whose centred weights stay in the first cache, beside six rows.
constexpr size_t kCentred = 576;

void fine(QuantisedPanels const& weight, size_t panels, FineRow const* x, size_t rows, float* y)
{
    size_t const groups = weight.groups(), size = weight.group_size, y_stride = panels * kPanel;
    size_t const parts = (groups + kCentred / size - 1) / (kCentred / size);
    size_t const most = (groups + parts - 1) / parts;
    alignas(32) int16_t centred[kCentred * kPanel];
    for (size_t p = 0; p < panels; ++p)
    {
        QuantisedPanels const panel = weight.from(p);
        if (rows <= kMaxRows)
        {
            with_rows(
                rows, [&](auto count) { fine_few<count>(panel, x, y + p * kPanel, y_stride); });
            continue;
        }
        for (size_t first = 0; first < groups; first += most)
        {
            size_t const end = std::min(groups, first + most);
            for (size_t g = first; g < end; ++g)
            {
                uint8_t const* zeros = panel.zero_points ? panel.zero_points + g * kPanel : nullptr;
                __m256i const zero_low = eight_zeros(zeros);
                __m256i const zero_high = eight_zeros(zeros ? zeros + 8 : nullptr);
                centre_group(panel.codes + g * size * kPanel, size,
                    _mm256_or_si256(zero_low, _mm256_slli_epi32(zero_low, 16)),
                    _mm256_or_si256(zero_high, _mm256_slli_epi32(zero_high, 16)),
                    centred + (g - first) * size * kPanel);
            }
            for (size_t row = 0; row < rows; row += kMaxRows)
            {
                with_rows(rows - row, [&](auto count)
                {
                    fine_centred<count>(panel, centred, first, end, x + row,
                        y + row * y_stride + p * kPanel, y_stride);
                });
            }
        }
    }
}

// Codes as 16 bits; of each four inputs the first, the third, the second and the fourth.
void round_fine(float const* x, size_t inputs, size_t group_size, float, int8_t* codes,
    float* scales, int32_t* sums, uint8_t*)
{
    __m256 const sign = _mm256_set1_ps(-0.0f);
    alignas(32) float padded[kMaxGroup];
    for (size_t start = 0, g = 0; start < inputs; start += group_size, ++g)
    {
        float const* in = x + start;
        if (inputs - start < group_size)
        {
            std::fill(std::copy(in, x + inputs, padded), padded + group_size, 0.0f);
            in = padded;
        }
        __m256 largest_8 = _mm256_setzero_ps();
        for (size_t k = 0; k < group_size; k += 8)
            largest_8 = _mm256_max_ps(largest_8, _mm256_andnot_ps(sign, _mm256_loadu_ps(in + k)));
        float const largest = largest_of(largest_8);
        __m256 const inverse = _mm256_set1_ps(largest > 0.0f ? kMostFine / largest : 0.0f);
        __m256i const order = _mm256_set_epi8(15, 14, 11, 10, 13, 12, 9, 8, 7, 6, 3, 2, 5, 4, 1, 0,
            15, 14, 11, 10, 13, 12, 9, 8, 7, 6, 3, 2, 5, 4, 1, 0);
        __m256i sum = _mm256_setzero_si256();
        for (size_t k = 0; k < group_size; k += 16)
        {
            __m256i const a = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(in + k), inverse));
            __m256i const b =
                _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(in + k + 8), inverse));
            __m256i const words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(words, _mm256_set1_epi16(1)));
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + 2 * (start + k)),
                _mm256_shuffle_epi8(words, order));
        }
        sums[g] = sum_of(sum);
        scales[g] = largest / kMostFine;
    }
}

} // namespace
} // namespace river
