// Plain loops for any processor; the innermost run over a panel's columns, which compilers vectorise.
#include <algorithm>
#include <cmath>

#include "kernels.h"

namespace river
{
namespace
{

float widen(float value)
{
    return value;
}
float widen(uint16_t half)
{
    return widen_half(half);
}
float widen(int8_t code)
{
    return code;
}

template <typename Value>
void dense_values(
    Value const* weight, size_t inputs, size_t panels, float const* const* x, size_t rows, float* y)
{
    for (size_t p = 0; p < panels; ++p, weight += inputs * kPanel)
    {
        for (size_t row = 0; row < rows; ++row)
        {
            float sum[kPanel] = {};
            for (size_t k = 0; k < inputs; ++k)
            {
                for (size_t c = 0; c < kPanel; ++c)
                    sum[c] += x[row][k] * widen(weight[k * kPanel + c]);
            }
            std::copy(sum, sum + kPanel, y + (row * panels + p) * kPanel);
        }
    }
}

void dense(DensePanels const& weight, size_t panels, float const* const* x, size_t rows, float* y)
{
    if (weight.half != nullptr)
        return dense_values(weight.half, weight.inputs, panels, x, rows, y);
    dense_values(weight.single, weight.inputs, panels, x, rows, y);
}

// The codes of one group as [group_size, 16].
void unpack(uint8_t const* codes, size_t group_size, int bits, int16_t* out)
{
    for (size_t k = 0; k < group_size; ++k)
    {
        for (size_t c = 0; c < kPanel; ++c)
        {
            if (bits == 8)
            {
                out[k * kPanel + c] = codes[k / 4 * 64 + c * 4 + k % 4];
            }
            else
            {
                uint8_t const byte = codes[k / 4 * 32 + c % 8 * 4 + k % 4];
                out[k * kPanel + c] = static_cast<int16_t>(c < 8 ? byte & 15 : byte >> 4);
            }
        }
    }
}

void rounded(
    QuantisedPanels const& weight, size_t panels, RoundedRow const* x, size_t rows, float* y)
{
    size_t const groups = weight.groups(), size = weight.group_size;
    size_t const group_bytes = weight.panel_bytes() / groups;
    int16_t codes[kMaxGroup * kPanel];
    std::fill(y, y + rows * panels * kPanel, 0.0f);
    for (size_t p = 0; p < panels; ++p)
    {
        for (size_t g = 0; g < groups; ++g)
        {
            size_t const block = p * groups + g;
            unpack(weight.codes + block * group_bytes, size, weight.bits, codes);
            for (size_t row = 0; row < rows; ++row)
            {
                int32_t dots[kPanel] = {};
                for (size_t k = 0; k < size; ++k)
                {
                    int32_t const code = x[row].codes[g * size + k];
                    for (size_t c = 0; c < kPanel; ++c)
                        dots[c] += code * codes[k * kPanel + c];
                }
                float* out = y + (row * panels + p) * kPanel;
                for (size_t c = 0; c < kPanel; ++c)
                {
                    size_t const at = block * kPanel + c;
                    float const zero =
                        weight.zero_points != nullptr ? weight.zero_points[at] : 8.0f;
                    float const centred = static_cast<float>(dots[c]) - zero * x[row].sums[g];
                    out[c] += centred * x[row].scales[g] * weight.scales[at];
                }
            }
        }
    }
}

void fine(QuantisedPanels const& weight, size_t panels, FineRow const* x, size_t rows, float* y)
{
    size_t const groups = weight.groups(), size = weight.group_size;
    size_t const group_bytes = weight.panel_bytes() / groups;
    int16_t codes[kMaxGroup * kPanel];
    std::fill(y, y + rows * panels * kPanel, 0.0f);
    for (size_t p = 0; p < panels; ++p)
    {
        for (size_t g = 0; g < groups; ++g)
        {
            size_t const block = p * groups + g;
            unpack(weight.codes + block * group_bytes, size, 8, codes);
            for (size_t k = 0; k < size; ++k)
            {
                for (size_t c = 0; c < kPanel; ++c)
                {
                    int const zero =
                        weight.zero_points != nullptr ? weight.zero_points[block * kPanel + c] : 8;
                    codes[k * kPanel + c] = static_cast<int16_t>(codes[k * kPanel + c] - zero);
                }
            }
            for (size_t row = 0; row < rows; ++row)
            {
                int32_t dots[kPanel] = {};
                for (size_t k = 0; k < size; ++k)
                {
                    int16_t code;
                    __builtin_memcpy(&code, x[row].codes + 2 * (g * size + k), 2);
                    for (size_t c = 0; c < kPanel; ++c)
                        dots[c] += code * codes[k * kPanel + c];
                }
                float* out = y + (row * panels + p) * kPanel;
                for (size_t c = 0; c < kPanel; ++c)
                {
                    out[c] += static_cast<float>(dots[c]) * x[row].scales[g]
                        * weight.scales[block * kPanel + c];
                }
            }
        }
    }
}

void widened(
    QuantisedPanels const& weight, size_t panels, float const* const* x, size_t rows, float* y)
{
    size_t const groups = weight.groups(), size = weight.group_size;
    size_t const group_bytes = weight.panel_bytes() / groups;
    int16_t codes[kMaxGroup * kPanel];
    std::fill(y, y + rows * panels * kPanel, 0.0f);
    for (size_t p = 0; p < panels; ++p)
    {
        for (size_t g = 0; g < groups; ++g)
        {
            size_t const block = p * groups + g, last = std::min(weight.inputs, (g + 1) * size);
            unpack(weight.codes + block * group_bytes, size, weight.bits, codes);
            for (size_t row = 0; row < rows; ++row)
            {
                float sum[kPanel] = {}, total = 0.0f;
                for (size_t k = g * size; k < last; ++k)
                {
                    int16_t const* code = codes + (k - g * size) * kPanel;
                    total += x[row][k];
                    for (size_t c = 0; c < kPanel; ++c)
                        sum[c] += x[row][k] * code[c];
                }
                float* out = y + (row * panels + p) * kPanel;
                for (size_t c = 0; c < kPanel; ++c)
                {
                    size_t const at = block * kPanel + c;
                    float const zero =
                        weight.zero_points != nullptr ? weight.zero_points[at] : 8.0f;
                    out[c] += (sum[c] - zero * total) * weight.scales[at];
                }
            }
        }
    }
}

void round_row(
    float const* x, size_t inputs, size_t group_size, int8_t* codes, float* scales, float* sums)
{
    for (size_t start = 0, g = 0; start < inputs; start += group_size, ++g)
    {
        size_t const end = std::min(inputs, start + group_size);
        float largest = 0.0f;
        for (size_t k = start; k < end; ++k)
            largest = std::max(largest, std::fabs(x[k]));
        float const inverse = largest > 0.0f ? 127.0f / largest : 0.0f;
        int32_t sum = 0;
        for (size_t k = start; k < end; ++k)
        {
            codes[k] = static_cast<int8_t>(std::lrintf(x[k] * inverse));
            sum += codes[k];
        }
        std::fill(codes + end, codes + start + group_size, static_cast<int8_t>(0));
        scales[g] = largest / 127.0f;
        sums[g] = static_cast<float>(sum);
    }
}

void round_fine(float const* x, size_t inputs, size_t group_size, float, int8_t* codes,
    float* scales, int32_t* sums, uint8_t*)
{
    for (size_t start = 0, g = 0; start < inputs; start += group_size, ++g)
    {
        size_t const end = std::min(inputs, start + group_size);
        float largest = 0.0f;
        for (size_t k = start; k < end; ++k)
            largest = std::max(largest, std::fabs(x[k]));
        float const inverse = largest > 0.0f ? kMostFine / largest : 0.0f;
        std::fill(codes + 2 * start, codes + 2 * (start + group_size), static_cast<int8_t>(0));
        for (size_t k = start; k < end; ++k)
        { // saturates where x is not finite, as other tables do
            float const scaled = std::min(32767.0f, std::max(-32768.0f, x[k] * inverse));
            auto const code = static_cast<int16_t>(std::lrintf(scaled));
            __builtin_memcpy(codes + 2 * k, &code, 2);
        }
        scales[g] = largest / kMostFine;
        sums[g] = 0; // not used
    }
}

float dot(float const* a, float const* b, size_t size)
{
    float sums[8] = {};
    size_t i = 0;
    for (; i + 8 <= size; i += 8)
    {
        for (size_t j = 0; j < 8; ++j)
            sums[j] += a[i + j] * b[i + j];
    }
    for (; i < size; ++i)
        sums[0] += a[i] * b[i];
    return ((sums[0] + sums[4]) + (sums[1] + sums[5]))
        + ((sums[2] + sums[6]) + (sums[3] + sums[7]));
}

void silu_mul(float const* gate, float const* up, size_t size, float* out)
{
    for (size_t i = 0; i < size; ++i)
        out[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
}

void gelu_mul(float const* gate, float const* up, size_t size, float* out)
{
    for (size_t i = 0; i < size; ++i)
    {
        float const x = gate[i], z = kGelu * (x + kGeluCubic * x * x * x);
        out[i] = x / (1.0f + std::exp(-z)) * up[i];
    }
}

template <typename Value>
void attend_values(Queries& queries, Value const* k, Value const* v, size_t dim)
{
    for (size_t r = 0; r < queries.size; ++r)
    {
        float const* q = queries.q[r];
        float *out = queries.out[r], largest = -INFINITY, total = 0.0f, weights[kKeys];
        std::fill(out, out + dim, 0.0f);
        size_t keys = 0;
        for (size_t start = queries.firsts[r]; start < queries.counts[r]; start += keys)
        {
            keys = std::min(kKeys - start % kKeys, queries.counts[r] - start);
            float now = largest;
            for (size_t i = 0; i < keys; ++i)
            {
                Value const* key = k + (start + i) * cached_width<Value>(dim);
                float sums[8] = {};
                for (size_t d = 0; d < dim; ++d)
                    sums[d % 8] += q[d] * widen(key[d]);
                weights[i] = ((sums[0] + sums[4]) + (sums[1] + sums[5]))
                    + ((sums[2] + sums[6]) + (sums[3] + sums[7]));
                weights[i] *= scale_of(key, dim);
                now = std::max(now, weights[i]);
            }
            // What was added up under the old maximum, brought to the new one.
            float const before = std::exp(largest - now);
            total *= before;
            for (size_t d = 0; d < dim; ++d)
                out[d] *= before;
            for (size_t i = 0; i < keys; ++i)
            {
                Value const* value = v + (start + i) * cached_width<Value>(dim);
                float weight = std::exp(weights[i] - now);
                total += weight;
                weight *= scale_of(value, dim);
                for (size_t d = 0; d < dim; ++d)
                    out[d] += weight * widen(value[d]);
            }
            largest = now;
        }
        queries.largest[r] = largest;
        queries.total[r] = total;
    }
}

void attend(Queries& queries, CachedRows k, CachedRows v, size_t dim)
{
    if (k.half != nullptr)
        return attend_values(queries, k.half, v.half, dim);
    if (k.codes != nullptr)
        return attend_values(queries, k.codes, v.codes, dim);
    attend_values(queries, k.single, v.single, dim);
}

void narrow(float const* x, size_t size, uint16_t* out)
{
    for (size_t i = 0; i < size; ++i)
        out[i] = narrow_half(x[i]);
}

} // namespace

Kernels const kPortable = {"portable", dense, rounded, fine, widened, round_row, round_fine, dot,
    silu_mul, gelu_mul, attend, narrow};

} // namespace river
