// Registers of 8 float32 for the kernels of AVX2, FMA and F16C: included by files compiled for them.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cmath>

#include "attention_widened.h"

// Loops over an array of registers: unrolled early, or the compiler keeps the array in memory.
#define RIVER_UNROLL _Pragma("GCC unroll 8")

namespace river
{
namespace
{

inline __m256 load_8(float const* at)
{
    return _mm256_loadu_ps(at);
}
inline __m256 load_8(uint16_t const* at)
{
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<__m128i const*>(at)));
}

inline __m256i load(void const* at)
{
    return _mm256_loadu_si256(static_cast<__m256i const*>(at));
}

inline __m256i four_bytes(int8_t const* at)
{
    int32_t value;
    __builtin_memcpy(&value, at, 4);
    return _mm256_set1_epi32(value);
}

// What is added here is added now: a compiler that adds products up first needs more registers than
// there are.
inline __attribute__((always_inline)) void in_turn(__m256i& a, __m256i& b)
{
    __m256i x = a, y = b;
    asm volatile("" : "+x"(x), "+x"(y));
    a = x;
    b = y;
}

inline float sum_of(__m256 v)
{
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}

inline float largest_of(__m256 v)
{
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}

// Wraps around.
inline int32_t sum_of(__m256i v)
{
    __m128i half = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(half, _mm_shuffle_epi32(half, 0xb1)));
}

// e^x for x <= 88: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2], to a few units in the last
// place (Cephes' coefficients).
inline __m256 exp_8(__m256 x)
{
    x = _mm256_min_ps(_mm256_max_ps(x, _mm256_set1_ps(-87.3f)), _mm256_set1_ps(88.0f));
    __m256 const n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)),
        _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
    __m256 p = _mm256_set1_ps(1.9875691500e-4f);
    for (float c :
        {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    {
        p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(c));
    }
    p = _mm256_add_ps(_mm256_fmadd_ps(p, _mm256_mul_ps(r, r), r), _mm256_set1_ps(1.0f));
    __m256i const exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}

// Registers of 8 float32, for attention.h and attention_widened.h.
struct Eight
{
    using Register = __m256;
    static constexpr size_t kWidth = 8;
    static constexpr size_t kScored = 3; // queries whose sums with four keys fit the registers
    static constexpr size_t kWide = 2;   // registers of values, beside the sums of six queries
    static constexpr size_t kTileQueries = 3, kTileRegisters = 2; // of widened keys

    static Register zero()
    {
        return _mm256_setzero_ps();
    }
    static Register all(float value)
    {
        return _mm256_set1_ps(value);
    }
    static Register load(float const* at)
    {
        return load_8(at);
    }
    static Register load(uint16_t const* at)
    {
        return load_8(at);
    }
    static Register load(int8_t const* at)
    {
        __m128i const codes = _mm_loadl_epi64(reinterpret_cast<__m128i const*>(at));
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes));
    }
    static void store(float* at, Register value)
    {
        _mm256_storeu_ps(at, value);
    }
    // In a register for all that use it: GCC 12 reads memory each time.
    static Register held(Register value)
    {
        asm("" : "+x"(value));
        return value;
    }
    static Register add(Register a, Register b)
    {
        return _mm256_add_ps(a, b);
    }
    static Register multiply(Register a, Register b)
    {
        return _mm256_mul_ps(a, b);
    }
    static Register multiply_add(Register a, Register b, Register c)
    {
        return _mm256_fmadd_ps(a, b, c);
    }
    static void sum_four(Register const* of, float* sums)
    {
        __m256 const halves =
            _mm256_hadd_ps(_mm256_hadd_ps(of[0], of[1]), _mm256_hadd_ps(of[2], of[3]));
        _mm_storeu_ps(
            sums, _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1)));
    }
    // The lane that is number i in the order in which sum_four adds neighbours up.
    static constexpr size_t lane(size_t i)
    {
        return i;
    }
    static void transpose(Register (&rows)[8])
    {
        Register pairs[8], fours[8];
        RIVER_UNROLL
        for (size_t i = 0; i < 8; i += 2)
        {
            pairs[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
            pairs[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
        }
        RIVER_UNROLL
        for (size_t i = 0; i < 8; i += 4)
        { // columns 0, 1, 2 and 3 of each half, of rows i .. i + 3
            RIVER_UNROLL
            for (size_t j = 0; j < 2; ++j)
            {
                fours[i + 2 * j] = _mm256_shuffle_ps(pairs[i + j], pairs[i + j + 2], 0x44);
                fours[i + 2 * j + 1] = _mm256_shuffle_ps(pairs[i + j], pairs[i + j + 2], 0xee);
            }
        }
        RIVER_UNROLL
        for (size_t i = 0; i < 4; ++i)
        {
            rows[i] = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x20);
            rows[i + 4] = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x31);
        }
    }
    static float largest(float const* scores) // [kKeys]
    {
        __m256 most = _mm256_load_ps(scores);
        for (size_t i = 8; i < kKeys; i += 8)
            most = _mm256_max_ps(most, _mm256_load_ps(scores + i));
        return largest_of(most);
    }
    // scores[i] = e^(scores[i] - largest), zero for -inf; their sum.
    static float exponentials(float* scores, float largest)
    {
        __m256 sums = _mm256_setzero_ps();
        for (size_t i = 0; i < kKeys; i += 8)
        {
            __m256 const score = _mm256_load_ps(scores + i);
            __m256 const real = // exp_8 stops short of zero
                _mm256_cmp_ps(score, _mm256_set1_ps(-INFINITY), _CMP_NEQ_UQ);
            __m256 const weight =
                _mm256_and_ps(exp_8(_mm256_sub_ps(score, _mm256_set1_ps(largest))), real);
            _mm256_store_ps(scores + i, weight);
            sums = _mm256_add_ps(sums, weight);
        }
        return sum_of(sums);
    }
};

} // namespace
} // namespace river
