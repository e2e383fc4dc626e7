// AVX2, FMA and F16C. Compiled with -mavx2 -mfma -mf16c, and called only where the processor has them.
#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>
#include <cmath>

#include "kernels.h"
#include "fine_avx2.h"
#include "kernel_loops.h"
#include "registers_avx2.h"

namespace river
{
namespace
{

// Rows x one panel: y = x * weight, on top of y where `add`. One chain of additions a column in
// the order of k, whatever the number of rows: a row equals that row alone, to the bit.
template <size_t kRows, typename Value>
inline void dense_panel(
    Value const* weight, size_t inputs, float const* const* x, bool add, float* y, size_t y_stride)
{
    __m256 low[kRows], high[kRows];
    RIVER_UNROLL
    for (size_t r = 0; r < kRows; ++r)
    {
        low[r] = add ? _mm256_loadu_ps(y + r * y_stride) : _mm256_setzero_ps();
        high[r] = add ? _mm256_loadu_ps(y + r * y_stride + 8) : _mm256_setzero_ps();
    }
    for (size_t k = 0; k < inputs; ++k)
    {
        __m256 const w_low = load_8(weight + k * kPanel);
        __m256 const w_high = load_8(weight + k * kPanel + 8);
        RIVER_UNROLL
        for (size_t r = 0; r < kRows; ++r)
        {
            __m256 const value = _mm256_broadcast_ss(x[r] + k);
            low[r] = _mm256_fmadd_ps(value, w_low, low[r]);
            high[r] = _mm256_fmadd_ps(value, w_high, high[r]);
        }
        // Several rows leave the core no time to wait for memory, too.
        _mm_prefetch(reinterpret_cast<char const*>(weight + k * kPanel) + 2048, _MM_HINT_T0);
    }
    RIVER_UNROLL
    for (size_t r = 0; r < kRows; ++r)
    {
        _mm256_storeu_ps(y + r * y_stride, low[r]);
        _mm256_storeu_ps(y + r * y_stride + 8, high[r]);
    }
}

// One row x two panels: twice the chains in flight, for the memory's sake.
template <typename Value>
inline void dense_pair(Value const* weight, size_t inputs, float const* x, float* y)
{
    Value const* next = weight + inputs * kPanel;
    __m256 a = _mm256_setzero_ps(), b = a, c = a, d = a;
    for (size_t k = 0; k < inputs; ++k)
    {
        __m256 const value = _mm256_broadcast_ss(x + k);
        a = _mm256_fmadd_ps(value, load_8(weight + k * kPanel), a);
        b = _mm256_fmadd_ps(value, load_8(weight + k * kPanel + 8), b);
        c = _mm256_fmadd_ps(value, load_8(next + k * kPanel), c);
        d = _mm256_fmadd_ps(value, load_8(next + k * kPanel + 8), d);
    }
    _mm256_storeu_ps(y, a);
    _mm256_storeu_ps(y + 8, b);
    _mm256_storeu_ps(y + 16, c);
    _mm256_storeu_ps(y + 24, d);
}

template <typename Value>
void dense_rows(Value const* weight, size_t inputs, float const* const* x, size_t rows, bool add,
    float* y, size_t y_stride)
{
    with_rows(rows, [&](auto count) { dense_panel<count>(weight, inputs, x, add, y, y_stride); });
}

constexpr size_t kPart = 256;

template <typename Value>
void dense_values(
    Value const* weight, size_t inputs, size_t panels, float const* const* x, size_t rows, float* y)
{
    size_t p = 0;
    if (rows == 1)
    {
        for (; p + 2 <= panels; p += 2)
        {
            dense_pair(weight + p * inputs * kPanel, inputs, x[0], y + p * kPanel);
        }
    }
    // Inputs in parts, so that the part of a panel that all rows read stays in the first cache.
    for (; p < panels; ++p)
    {
        for (size_t start = 0; start < inputs; start += kPart)
        {
            Value const* part = weight + (p * inputs + start) * kPanel;
            for (size_t row = 0; row < rows; row += kMaxRows)
            {
                size_t const block = std::min(kMaxRows, rows - row);
                float const* values[kMaxRows];
                for (size_t r = 0; r < block; ++r)
                    values[r] = x[row + r] + start;
                dense_rows(part, std::min(kPart, inputs - start), values, block, start > 0,
                    y + row * panels * kPanel + p * kPanel, panels * kPanel);
            }
        }
    }
}

void dense(DensePanels const& weight, size_t panels, float const* const* x, size_t rows, float* y)
{
    if (weight.half != nullptr)
        return dense_values(weight.half, weight.inputs, panels, x, rows, y);
    dense_values(weight.single, weight.inputs, panels, x, rows, y);
}

// y += (dots - zero_point * sum) * row scale * weight scale, for 8 columns of one group.
inline __m256 add_group(
    __m256 y, __m256i dots, uint8_t const* zero_points, float const* scales, float sum, float scale)
{
    __m256 zero = _mm256_set1_ps(8.0f);
    if (zero_points != nullptr)
    {
        __m128i const bytes = _mm_loadl_epi64(reinterpret_cast<__m128i const*>(zero_points));
        zero = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
    }
    // Exact: both terms are whole numbers below 2^24.
    __m256 const centred = _mm256_fnmadd_ps(zero, _mm256_set1_ps(sum), _mm256_cvtepi32_ps(dots));
    __m256 const scaled = _mm256_mul_ps(centred, _mm256_set1_ps(scale));
    return _mm256_fmadd_ps(scaled, _mm256_loadu_ps(scales), y);
}

// 8 products of a 4-bit code and a rounded value fit 16 bits: 8 * 2 * 15 * 127 < 2^15.
constexpr size_t kRun = 32;

template <size_t kRows>
void rounded_panel_4(QuantisedPanels const& weight, RoundedRow const* x, float* y, size_t y_stride)
{
    size_t const groups = weight.groups(), size = weight.group_size;
    __m256i const nibble = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    __m256 low[kRows], high[kRows];
    RIVER_UNROLL
    for (size_t r = 0; r < kRows; ++r)
        low[r] = high[r] = _mm256_setzero_ps();
    uint8_t const* codes = weight.codes;
    for (size_t g = 0; g < groups; ++g)
    {
        __m256i dots_low[kRows], dots_high[kRows];
        RIVER_UNROLL
        for (size_t r = 0; r < kRows; ++r)
            dots_low[r] = dots_high[r] = _mm256_setzero_si256();
        for (size_t start = g * size; start < (g + 1) * size; start += kRun)
        {
            __m256i run_low[kRows], run_high[kRows];
            RIVER_UNROLL
            for (size_t q = 0; q < kRun / 4; ++q, codes += 32)
            {
                if (q % 2 == 0)
                    prefetch(codes + kAhead);
                __m256i const bytes = load(codes);
                __m256i const w_low = _mm256_and_si256(bytes, nibble);
                __m256i const w_high = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), nibble);
                RIVER_UNROLL
                for (size_t r = 0; r < kRows; ++r)
                {
                    __m256i const values = four_bytes(x[r].codes + start + 4 * q);
                    __m256i const low_16 = _mm256_maddubs_epi16(w_low, values);
                    __m256i const high_16 = _mm256_maddubs_epi16(w_high, values);
                    run_low[r] = q == 0 ? low_16 : _mm256_add_epi16(run_low[r], low_16);
                    run_high[r] = q == 0 ? high_16 : _mm256_add_epi16(run_high[r], high_16);
                    in_turn(run_low[r], run_high[r]);
                }
            }
            RIVER_UNROLL
            for (size_t r = 0; r < kRows; ++r)
            {
                dots_low[r] = _mm256_add_epi32(dots_low[r], _mm256_madd_epi16(run_low[r], ones));
                dots_high[r] = _mm256_add_epi32(dots_high[r], _mm256_madd_epi16(run_high[r], ones));
            }
        }
        float const* scales = weight.scales + g * kPanel;
        uint8_t const* zeros = weight.zero_points ? weight.zero_points + g * kPanel : nullptr;
        RIVER_UNROLL
        for (size_t r = 0; r < kRows; ++r)
        {
            float const sum = x[r].sums[g], scale = x[r].scales[g];
            low[r] = add_group(low[r], dots_low[r], zeros, scales, sum, scale);
            high[r] = add_group(
                high[r], dots_high[r], zeros ? zeros + 8 : nullptr, scales + 8, sum, scale);
        }
    }
    RIVER_UNROLL
    for (size_t r = 0; r < kRows; ++r)
    {
        _mm256_storeu_ps(y + r * y_stride, low[r]);
        _mm256_storeu_ps(y + r * y_stride + 8, high[r]);
    }
}

// 8-bit codes: as signed numbers (code - 128), because |code| * sign(x) fits maddubs' 16 bits
// while code * x does not; 128 * sum comes back with the zero point.
template <size_t kRows>
void rounded_panel_8(QuantisedPanels const& weight, RoundedRow const* x, float* y, size_t y_stride)
{
    size_t const groups = weight.groups(), size = weight.group_size;
    __m256i const flip = _mm256_set1_epi8(-128), ones = _mm256_set1_epi16(1);
    __m256 low[kRows], high[kRows];
    RIVER_UNROLL
    for (size_t r = 0; r < kRows; ++r)
        low[r] = high[r] = _mm256_setzero_ps();
    uint8_t const* codes = weight.codes;
    for (size_t g = 0; g < groups; ++g)
    {
        __m256i dots_low[kRows], dots_high[kRows];
        RIVER_UNROLL
        for (size_t r = 0; r < kRows; ++r)
        {
            __m256i const shift = _mm256_set1_epi32(128 * static_cast<int32_t>(x[r].sums[g]));
            dots_low[r] = dots_high[r] = shift;
        }
        for (size_t k = g * size; k < (g + 1) * size; k += 4, codes += 64)
        {
            prefetch(codes + kAhead);
            __m256i const w_low = _mm256_xor_si256(load(codes), flip);
            __m256i const w_high = _mm256_xor_si256(load(codes + 32), flip);
            __m256i const abs_low = _mm256_abs_epi8(w_low), abs_high = _mm256_abs_epi8(w_high);
            RIVER_UNROLL
            for (size_t r = 0; r < kRows; ++r)
            {
                __m256i const values = four_bytes(x[r].codes + k);
                __m256i const low_16 =
                    _mm256_maddubs_epi16(abs_low, _mm256_sign_epi8(values, w_low));
                __m256i const high_16 =
                    _mm256_maddubs_epi16(abs_high, _mm256_sign_epi8(values, w_high));
                dots_low[r] = _mm256_add_epi32(dots_low[r], _mm256_madd_epi16(low_16, ones));
                dots_high[r] = _mm256_add_epi32(dots_high[r], _mm256_madd_epi16(high_16, ones));
            }
        }
        float const* scales = weight.scales + g * kPanel;
        uint8_t const* zeros = weight.zero_points ? weight.zero_points + g * kPanel : nullptr;
        RIVER_UNROLL
        for (size_t r = 0; r < kRows; ++r)
        {
            float const sum = x[r].sums[g], scale = x[r].scales[g];
            low[r] = add_group(low[r], dots_low[r], zeros, scales, sum, scale);
            high[r] = add_group(
                high[r], dots_high[r], zeros ? zeros + 8 : nullptr, scales + 8, sum, scale);
        }
    }
    RIVER_UNROLL
    for (size_t r = 0; r < kRows; ++r)
    {
        _mm256_storeu_ps(y + r * y_stride, low[r]);
        _mm256_storeu_ps(y + r * y_stride + 8, high[r]);
    }
}

template <size_t kRows>
void rounded_panel(QuantisedPanels const& weight, RoundedRow const* x, float* y, size_t y_stride)
{
    if (weight.bits == 4)
        return rounded_panel_4<kRows>(weight, x, y, y_stride);
    rounded_panel_8<kRows>(weight, x, y, y_stride);
}

void rounded(
    QuantisedPanels const& weight, size_t panels, RoundedRow const* x, size_t rows, float* y)
{
    for (size_t p = 0; p < panels; ++p)
    {
        QuantisedPanels const panel = weight.from(p);
        size_t row = 0;
        for (; row + 2 <= rows; row += 2)
        {
            rounded_panel<2>(panel, x + row, y + (row * panels + p) * kPanel, panels * kPanel);
        }
        if (row < rows)
            rounded_panel<1>(panel, x + row, y + (row * panels + p) * kPanel, 0);
    }
}

// One group's weights as float32 [group_size, 16].
void widen_group(uint8_t const* codes, int bits, size_t group_size, float const* scales,
    uint8_t const* zero_points, float* out)
{
    for (size_t k = 0; k < group_size; ++k)
    {
        for (size_t c = 0; c < kPanel; ++c)
        {
            uint8_t const byte = bits == 8 ? codes[k / 4 * 64 + c * 4 + k % 4]
                                           : codes[k / 4 * 32 + c % 8 * 4 + k % 4];
            int const code = bits == 8 ? byte : c < 8 ? byte & 15 : byte >> 4;
            int const zero = zero_points != nullptr ? zero_points[c] : 8;
            out[k * kPanel + c] = static_cast<float>(code - zero) * scales[c];
        }
    }
}

void widened(
    QuantisedPanels const& weight, size_t panels, float const* const* x, size_t rows, float* y)
{
    size_t const groups = weight.groups(), size = weight.group_size;
    alignas(32) float group[kMaxGroup * kPanel];
    for (size_t p = 0; p < panels; ++p)
    {
        QuantisedPanels const panel = weight.from(p);
        for (size_t g = 0; g < groups; ++g)
        {
            size_t const start = g * size, inputs = std::min(size, weight.inputs - start);
            widen_group(panel.codes + g * size * kPanel * weight.bits / 8, weight.bits, size,
                panel.scales + g * kPanel,
                panel.zero_points ? panel.zero_points + g * kPanel : nullptr, group);
            float const* parts[kMaxRows];
            for (size_t r = 0; r < rows; ++r)
                parts[r] = x[r] + start;
            dense_rows(group, inputs, parts, rows, g > 0, y + p * kPanel, panels * kPanel);
        }
    }
}

void round_row(
    float const* x, size_t inputs, size_t group_size, int8_t* codes, float* scales, float* sums)
{
    __m256 const sign = _mm256_set1_ps(-0.0f);
    for (size_t start = 0, g = 0; start < inputs; start += group_size, ++g)
    {
        size_t const count = std::min(group_size, inputs - start), whole = count / 8 * 8;
        float const* in = x + start;
        int8_t* out = codes + start;
        __m256 largest_8 = _mm256_setzero_ps();
        for (size_t k = 0; k < whole; k += 8)
        {
            largest_8 = _mm256_max_ps(largest_8, _mm256_andnot_ps(sign, _mm256_loadu_ps(in + k)));
        }
        float largest = largest_of(largest_8);
        for (size_t k = whole; k < count; ++k)
            largest = std::max(largest, std::fabs(in[k]));
        float const inverse = largest > 0.0f ? 127.0f / largest : 0.0f;
        __m256i sum_8 = _mm256_setzero_si256();
        for (size_t k = 0; k < whole; k += 8)
        {
            __m256 const scaled = _mm256_mul_ps(_mm256_loadu_ps(in + k), _mm256_set1_ps(inverse));
            __m256i const rounded_8 = _mm256_cvtps_epi32(scaled);
            sum_8 = _mm256_add_epi32(sum_8, rounded_8);
            __m128i const words = _mm_packs_epi32(
                _mm256_castsi256_si128(rounded_8), _mm256_extracti128_si256(rounded_8, 1));
            _mm_storel_epi64(reinterpret_cast<__m128i*>(out + k), _mm_packs_epi16(words, words));
        }
        auto sum = static_cast<uint32_t>(sum_of(sum_8)); // wraps where x is not finite
        for (size_t k = whole; k < count; ++k)
        {
            out[k] = static_cast<int8_t>(std::lrintf(in[k] * inverse));
            sum += static_cast<uint32_t>(out[k]);
        }
        std::fill(out + count, out + group_size, static_cast<int8_t>(0));
        scales[g] = largest / 127.0f;
        sums[g] = static_cast<float>(static_cast<int32_t>(sum));
    }
}

float dot(float const* a, float const* b, size_t size)
{
    __m256 sums[4] = {
        _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
    size_t i = 0;
    for (; i + 32 <= size; i += 32)
    {
        RIVER_UNROLL
        for (size_t j = 0; j < 4; ++j)
        {
            sums[j] = _mm256_fmadd_ps(
                _mm256_loadu_ps(a + i + 8 * j), _mm256_loadu_ps(b + i + 8 * j), sums[j]);
        }
    }
    float total =
        sum_of(_mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3])));
    for (; i < size; ++i)
        total += a[i] * b[i];
    return total;
}

// out = gate sigmoid(z(gate)) up
template <typename Z>
void gated(float const* gate, float const* up, size_t size, float* out, Z&& z)
{
    __m256 const one = _mm256_set1_ps(1.0f);
    auto const eight = [&](__m256 g, __m256 u)
    {
        __m256 const e = exp_8(_mm256_xor_ps(z(g), _mm256_set1_ps(-0.0f)));
        return _mm256_mul_ps(_mm256_div_ps(g, _mm256_add_ps(one, e)), u);
    };
    size_t i = 0;
    for (; i + 8 <= size; i += 8)
        _mm256_storeu_ps(out + i, eight(_mm256_loadu_ps(gate + i), _mm256_loadu_ps(up + i)));
    if (i < size)
    {
        float rest[3][8] = {};
        std::copy(gate + i, gate + size, rest[0]);
        std::copy(up + i, up + size, rest[1]);
        _mm256_storeu_ps(rest[2], eight(_mm256_loadu_ps(rest[0]), _mm256_loadu_ps(rest[1])));
        std::copy(rest[2], rest[2] + (size - i), out + i);
    }
}

void silu_mul(float const* gate, float const* up, size_t size, float* out)
{
    gated(gate, up, size, out, [](__m256 x) { return x; });
}

void gelu_mul(float const* gate, float const* up, size_t size, float* out)
{
    gated(gate, up, size, out, [](__m256 x)
    {
        __m256 const cubic = _mm256_mul_ps(_mm256_set1_ps(kGeluCubic), _mm256_mul_ps(x, x));
        return _mm256_mul_ps(_mm256_set1_ps(kGelu), _mm256_fmadd_ps(cubic, x, x));
    });
}

void attend(Queries& queries, CachedRows k, CachedRows v, size_t dim)
{
    if (dim % Eight::kWidth != 0)
        return kPortable.attend(queries, k, v, dim);
    attend_with<Eight>(queries, k, v, dim);
}

void widen(CachedRows k, CachedRows v, size_t count, size_t dim, WidenedKeys const& to)
{
    widen_with<Eight>(k, v, count, dim, to);
}

void attend_widened(Queries* blocks, size_t size, WidenedKeys const& of, bool scaled, size_t dim)
{
    attend_widened_with<Eight>(blocks, size, of, scaled, dim);
}

void narrow(float const* x, size_t size, uint16_t* out)
{
    __m256 const most = _mm256_set1_ps(65504.0f), least = _mm256_set1_ps(-65504.0f);
    size_t i = 0;
    for (; i + 8 <= size; i += 8)
    { // the second operand where one is NaN
        __m256 const value = _mm256_max_ps(least, _mm256_min_ps(most, _mm256_loadu_ps(x + i)));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i),
            _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    }
    for (; i < size; ++i)
        out[i] = narrow_half(x[i]);
}

} // namespace

Kernels const kAvx2 = {"avx2", dense, rounded, fine, widened, round_row, round_fine, dot, silu_mul,
    gelu_mul, attend, narrow, kMaxRows, Eight::kWidth, widen, attend_widened};

} // namespace river

#endif
