// AVX-512 with VNNI: the products of weights, and attention; all else is AVX2's. Compiled with the flags of
// native_library.py, and called only where the processor has all of it.
//
// A panel's 16 columns are one register of float32 or int32. One instruction multiplies four
// inputs of all columns: 64 bytes of 8-bit codes, or 32 bytes of 4-bit ones.
#if defined(__x86_64__)

// GCC 12 takes the undefined values of its own intrinsics for a mistake.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#include <immintrin.h>

#include <algorithm>
#include <cmath>

#include "attention_widened.h"
#include "fine_avx512.h"
#include "group_products_avx512.h"
#include "kernel_loops.h"
#include "kernels.h"

namespace river
{
namespace
{

inline __m512 load_16(float const* at)
{
    return _mm512_loadu_ps(at);
}
inline __m512 load_16(uint16_t const* at)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<__m256i const*>(at)));
}

// Rows x panels: y = x * weight, on top of y where `add`. One chain of additions a column in the
// order of k, whatever the number of rows and panels: a row equals that row alone, to the bit.
template <size_t kRows, size_t kPanels, typename Value>
inline void dense_tile(Value const* weight, size_t stride, size_t inputs, float const* const* x,
    bool add, float* y, size_t y_stride)
{
    __m512 sums[kRows * kPanels];
    RIVER_UNROLL
    for (size_t r = 0; r < kRows; ++r)
    {
        RIVER_UNROLL
        for (size_t p = 0; p < kPanels; ++p)
        {
            sums[r * kPanels + p] =
                add ? _mm512_loadu_ps(y + r * y_stride + p * kPanel) : _mm512_setzero_ps();
        }
    }
    for (size_t k = 0; k < inputs; ++k)
    {
        __m512 w[kPanels];
        RIVER_UNROLL
        for (size_t p = 0; p < kPanels; ++p)
            w[p] = load_16(weight + p * stride + k * kPanel);
        RIVER_UNROLL
        for (size_t r = 0; r < kRows; ++r)
        {
            __m512 const value = _mm512_set1_ps(x[r][k]);
            RIVER_UNROLL
            for (size_t p = 0; p < kPanels; ++p)
            {
                sums[r * kPanels + p] = _mm512_fmadd_ps(value, w[p], sums[r * kPanels + p]);
            }
        }
        // Several rows leave the core no time to wait for memory, too.
        RIVER_UNROLL
        for (size_t p = 0; p < kPanels; ++p)
        {
            _mm_prefetch(reinterpret_cast<char const*>(weight + p * stride + k * kPanel) + 2048,
                _MM_HINT_T0);
        }
    }
    RIVER_UNROLL
    for (size_t r = 0; r < kRows; ++r)
    {
        RIVER_UNROLL
        for (size_t p = 0; p < kPanels; ++p)
        {
            _mm512_storeu_ps(y + r * y_stride + p * kPanel, sums[r * kPanels + p]);
        }
    }
}

template <size_t kPanels, typename Value>
void dense_rows(Value const* weight, size_t stride, size_t inputs, float const* const* x,
    size_t rows, bool add, float* y, size_t y_stride)
{
    with_rows(rows, [&](auto count)
    { dense_tile<count, kPanels>(weight, stride, inputs, x, add, y, y_stride); });
}

constexpr size_t kPart = 256;

// Inputs in parts, so that the part of the panels that all rows read stays in the first cache.
template <size_t kPanels, typename Value>
void dense_panels(Value const* weight, size_t inputs, float const* const* x, size_t rows, float* y,
    size_t y_stride)
{
    size_t const most = rows == 1 ? inputs : kPart;
    for (size_t start = 0; start < inputs; start += most)
    {
        for (size_t row = 0; row < rows; row += kMaxRows)
        {
            size_t const block = std::min(kMaxRows, rows - row);
            float const* values[kMaxRows];
            for (size_t r = 0; r < block; ++r)
                values[r] = x[row + r] + start;
            dense_rows<kPanels>(weight + start * kPanel, inputs * kPanel,
                std::min(most, inputs - start), values, block, start > 0, y + row * y_stride,
                y_stride);
        }
    }
}

template <typename Value>
void dense_values(
    Value const* weight, size_t inputs, size_t panels, float const* const* x, size_t rows, float* y)
{
    size_t p = 0;
    // One row of halves has enough to do with one stream of memory; of floats it has not.
    bool const pairs = rows > 1 || sizeof(Value) == 4;
    for (; pairs && p + 2 <= panels; p += 2)
    {
        dense_panels<2>(
            weight + p * inputs * kPanel, inputs, x, rows, y + p * kPanel, panels * kPanel);
    }
    for (; p < panels; ++p)
    {
        dense_panels<1>(
            weight + p * inputs * kPanel, inputs, x, rows, y + p * kPanel, panels * kPanel);
    }
}

void dense(DensePanels const& weight, size_t panels, float const* const* x, size_t rows, float* y)
{
    if (weight.half != nullptr)
        return dense_values(weight.half, weight.inputs, panels, x, rows, y);
    dense_values(weight.single, weight.inputs, panels, x, rows, y);
}

template <int kBits, size_t kRows, size_t kPanels>
void rounded_tile(QuantisedPanels const* weight, RoundedRow const* x, float* y, size_t y_stride)
{
    constexpr size_t kTile = kRows * kPanels;
    __m512 sums[kTile];
    RIVER_UNROLL
    for (size_t i = 0; i < kTile; ++i)
        sums[i] = _mm512_setzero_ps();
    int8_t const* codes[kRows];
    RIVER_UNROLL
    for (size_t r = 0; r < kRows; ++r)
        codes[r] = x[r].codes;
    for (size_t g = 0; g < weight->groups(); ++g)
    {
        __m512i dots[kTile];
        multiply_group<kBits, kRows, kPanels>(weight, g, codes, true, dots);
        RIVER_UNROLL
        for (size_t p = 0; p < kPanels; ++p)
        {
            __m512 zero = _mm512_set1_ps(8.0f);
            if (weight[p].zero_points != nullptr)
            {
                auto const* at =
                    reinterpret_cast<__m128i const*>(weight[p].zero_points + g * kPanel);
                zero = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(at)));
            }
            __m512 const scales = _mm512_loadu_ps(weight[p].scales + g * kPanel);
            RIVER_UNROLL
            for (size_t r = 0; r < kRows; ++r)
            {
                size_t const i = r * kPanels + p;
                // Exact: both terms are whole numbers below 2^24.
                __m512 const centred = _mm512_fnmadd_ps(
                    zero, _mm512_set1_ps(x[r].sums[g]), _mm512_cvtepi32_ps(dots[i]));
                __m512 const scaled = _mm512_mul_ps(centred, _mm512_set1_ps(x[r].scales[g]));
                sums[i] = _mm512_fmadd_ps(scaled, scales, sums[i]);
            }
        }
    }
    RIVER_UNROLL
    for (size_t r = 0; r < kRows; ++r)
    {
        RIVER_UNROLL
        for (size_t p = 0; p < kPanels; ++p)
        {
            _mm512_storeu_ps(y + r * y_stride + p * kPanel, sums[r * kPanels + p]);
        }
    }
}

template <int kBits, size_t kPanels>
void rounded_rows(
    QuantisedPanels const* weight, RoundedRow const* x, size_t rows, float* y, size_t y_stride)
{
    with_rows(
        rows, [&](auto count) { rounded_tile<kBits, count, kPanels>(weight, x, y, y_stride); });
}

template <int kBits>
void rounded_panels(
    QuantisedPanels const& weight, size_t panels, RoundedRow const* x, size_t rows, float* y)
{
    size_t p = 0;
    if (rows > 2)
    { // few rows read one stream of memory
        for (; p + 2 <= panels; p += 2)
        {
            QuantisedPanels const two[2] = {weight.from(p), weight.from(p + 1)};
            rounded_rows<kBits, 2>(two, x, rows, y + p * kPanel, panels * kPanel);
        }
    }
    for (; p < panels; ++p)
    {
        QuantisedPanels const one = weight.from(p);
        rounded_rows<kBits, 1>(&one, x, rows, y + p * kPanel, panels * kPanel);
    }
}

void rounded(
    QuantisedPanels const& weight, size_t panels, RoundedRow const* x, size_t rows, float* y)
{
    if (weight.bits == 4)
        return rounded_panels<4>(weight, panels, x, rows, y);
    rounded_panels<8>(weight, panels, x, rows, y);
}

// e^x for x <= 88: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2], to a few units in the last
// place (Cephes' coefficients). Far below zero it is zero.
inline __m512 exp_16(__m512 x)
{
    x = _mm512_max_ps(x, _mm512_set1_ps(-150.0f));
    __m512 const n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)),
        _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.9875691500e-4f);
    for (float c :
        {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    {
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
    }
    p = _mm512_add_ps(_mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r), _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, n);
}

void silu_mul(float const* gate, float const* up, size_t size, float* out)
{
    for (size_t i = 0; i < size; i += 16)
    {
        size_t const left = size - i;
        __mmask16 const some = left < 16 ? static_cast<__mmask16>((1u << left) - 1) : 0xffff;
        __m512 const g = _mm512_maskz_loadu_ps(some, gate + i);
        // Beyond 88, e^-g has no end, and silu is zero.
        __m512 const e =
            exp_16(_mm512_min_ps(_mm512_sub_ps(_mm512_setzero_ps(), g), _mm512_set1_ps(88.0f)));
        __m512 const silu = _mm512_div_ps(g, _mm512_add_ps(_mm512_set1_ps(1.0f), e));
        _mm512_mask_storeu_ps(
            out + i, some, _mm512_mul_ps(silu, _mm512_maskz_loadu_ps(some, up + i)));
    }
}

inline __m256 sum_halves(__m512 v)
{
    return _mm256_add_ps(_mm512_castps512_ps256(v),
        _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(v), 1)));
}

// Registers of 16 float32, for attention.h.
struct Sixteen
{
    using Register = __m512;
    static constexpr size_t kWidth = 16;
    static constexpr size_t kScored = 6; // queries whose sums with four keys fit the registers
    static constexpr size_t kWide = 4;   // registers of values, beside the sums of six queries
    static constexpr size_t kTileQueries = 3, kTileRegisters = 2; // of widened keys

    static Register zero()
    {
        return _mm512_setzero_ps();
    }
    static Register all(float value)
    {
        return _mm512_set1_ps(value);
    }
    static Register load(float const* at)
    {
        return load_16(at);
    }
    static Register load(uint16_t const* at)
    {
        return load_16(at);
    }
    static Register load(int8_t const* at)
    {
        __m128i const codes = _mm_loadu_si128(reinterpret_cast<__m128i const*>(at));
        return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes));
    }
    static void store(float* at, Register value)
    {
        _mm512_storeu_ps(at, value);
    }
    // In a register for all that use it: GCC 12 reads memory each time.
    static Register held(Register value)
    {
        asm("" : "+v"(value));
        return value;
    }
    static Register add(Register a, Register b)
    {
        return _mm512_add_ps(a, b);
    }
    static Register multiply(Register a, Register b)
    {
        return _mm512_mul_ps(a, b);
    }
    static Register multiply_add(Register a, Register b, Register c)
    {
        return _mm512_fmadd_ps(a, b, c);
    }
    static void sum_four(Register const* of, float* sums)
    {
        __m256 const halves = _mm256_hadd_ps(_mm256_hadd_ps(sum_halves(of[0]), sum_halves(of[1])),
            _mm256_hadd_ps(sum_halves(of[2]), sum_halves(of[3])));
        _mm_storeu_ps(
            sums, _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1)));
    }
    // The lane that is number i in the order in which sum_four adds neighbours up.
    static constexpr size_t lane(size_t i)
    {
        return i / 2 + i % 2 * 8;
    }
    static void transpose(Register (&rows)[16])
    {
        Register pairs[16], fours[16], eights[16];
        RIVER_UNROLL
        for (size_t i = 0; i < 16; i += 2)
        {
            pairs[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
            pairs[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
        }
        RIVER_UNROLL
        for (size_t i = 0; i < 16; i += 4)
        { // columns 0, 1, 2 and 3 of each part of four, of rows i .. i + 3
            RIVER_UNROLL
            for (size_t j = 0; j < 2; ++j)
            {
                __m512d const a = _mm512_castps_pd(pairs[i + j]);
                __m512d const b = _mm512_castps_pd(pairs[i + j + 2]);
                fours[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
                fours[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
            }
        }
        RIVER_UNROLL
        for (size_t i = 0; i < 4; ++i)
        { // parts 0 and 2, then 1 and 3, of eight rows
            RIVER_UNROLL
            for (size_t half = 0; half < 16; half += 8)
            {
                Register const a = fours[half + i], b = fours[half + i + 4];
                eights[half + i] = _mm512_shuffle_f32x4(a, b, 0x88);
                eights[half + i + 4] = _mm512_shuffle_f32x4(a, b, 0xdd);
            }
        }
        RIVER_UNROLL
        for (size_t i = 0; i < 8; ++i)
        {
            rows[i] = _mm512_shuffle_f32x4(eights[i], eights[i + 8], 0x88);
            rows[i + 8] = _mm512_shuffle_f32x4(eights[i], eights[i + 8], 0xdd);
        }
    }
    static float largest(float const* scores) // [kKeys]
    {
        __m512 most = _mm512_load_ps(scores);
        for (size_t i = 16; i < kKeys; i += 16)
            most = _mm512_max_ps(most, _mm512_load_ps(scores + i));
        return _mm512_reduce_max_ps(most);
    }
    // scores[i] = e^(scores[i] - largest), zero for -inf; their sum.
    static float exponentials(float* scores, float largest)
    {
        __m512 sums = _mm512_setzero_ps();
        for (size_t i = 0; i < kKeys; i += 16)
        {
            __m512 const score = _mm512_load_ps(scores + i);
            __m512 const weight = exp_16(_mm512_sub_ps(score, _mm512_set1_ps(largest)));
            _mm512_store_ps(scores + i, weight);
            sums = _mm512_add_ps(sums, weight);
        }
        return _mm512_reduce_add_ps(sums);
    }
};

void attend(Queries& queries, CachedRows k, CachedRows v, size_t dim)
{
    if (dim % Sixteen::kWidth != 0)
        return kAvx2.attend(queries, k, v, dim);
    attend_with<Sixteen>(queries, k, v, dim);
}

void widen(CachedRows k, CachedRows v, size_t count, size_t dim, WidenedKeys const& to)
{
    widen_with<Sixteen>(k, v, count, dim, to);
}

void attend_widened(Queries* blocks, size_t size, WidenedKeys const& of, bool scaled, size_t dim)
{
    attend_widened_with<Sixteen>(blocks, size, of, scaled, dim);
}

} // namespace

void add_low_bytes(
    QuantisedPanels const& weight, size_t panels, FineRow const* x, size_t rows, float* y)
{
    add_low(weight, panels, x, rows, y);
}

Kernels const kAvx512 = {"avx512 vnni", dense, rounded, fine, kAvx2.widened, kAvx2.round_row,
    round_fine, kAvx2.dot, silu_mul, kAvx2.gelu_mul, attend, kAvx2.narrow, kMaxRows,
    Sixteen::kWidth, widen, attend_widened};

} // namespace river

#endif
