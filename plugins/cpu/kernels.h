// The numerical kernels of the CPU backend, free of ONNX Runtime: one table an instruction set.
//
// Weights lie in panels of 16 output columns, so that a kernel reads memory once, in order, and
// needs no sum across a register. A row's result does not depend on the rows beside it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace river
{

constexpr size_t kPanel = 16;  // output columns of a panel
constexpr size_t kMaxRows = 6; // rows that share one read of a weight
constexpr size_t kMaxGroup = 128;
constexpr size_t kKeys = 64; // keys of an attention that are looked at together

// Float weights [panels, inputs, 16]: float32, or IEEE half precision. One of the two, or neither.
struct DensePanels
{
    float const* single = nullptr;
    uint16_t const* half = nullptr;
    size_t inputs = 0; // K

    bool present() const
    {
        return single != nullptr || half != nullptr;
    }
    DensePanels from(size_t panel) const
    {
        size_t const skipped = panel * inputs * kPanel;
        return {single ? single + skipped : nullptr, half ? half + skipped : nullptr, inputs};
    }
};

// 4 or 8 bit codes with a scale and a zero point for each column and group of inputs.
//   codes        4 bits: [panels, groups, group_size / 4, 32]; byte j holds input 4 q + j % 4 of
//                column j / 4 in its low half and of column 8 + j / 4 in its high half
//                8 bits: [panels, groups, group_size / 4, 64]; byte j is column j / 4
//   scales       [panels, groups, 16]
//   zero_points  [panels, groups, 16], or null: 8
struct QuantisedPanels
{
    uint8_t const* codes;
    float const* scales;
    uint8_t const* zero_points;
    size_t inputs;     // K
    size_t group_size; // a multiple of 32
    int bits;          // 4 or 8

    size_t groups() const
    {
        return (inputs + group_size - 1) / group_size;
    }
    size_t panel_bytes() const
    {
        return groups() * group_size * kPanel * bits / 8;
    }
    QuantisedPanels from(size_t panel) const;
};

// A row rounded to 8 bits a group: x[k] ~ codes[k] * scales[g].
struct RoundedRow
{
    int8_t const* codes; // [groups * group_size], zeros behind the inputs
    float const* scales; // [groups]
    float const* sums;   // [groups]: of the codes
};

struct Kernels
{
    char const* name;

    // y[row][16 * p + c] = sum_k x[row][k] * weight[p][k][c]; y [rows, panels * 16], any number of
    // rows.
    void (*dense)(
        DensePanels const& weight, size_t panels, float const* const* x, size_t rows, float* y);
    // The same with rounded rows, at most kMaxRows: integer products within a group, float32 across groups.
    void (*rounded)(
        QuantisedPanels const& weight, size_t panels, RoundedRow const* x, size_t rows, float* y);
    // The same with float32 rows: the codes are widened.
    void (*widened)(
        QuantisedPanels const& weight, size_t panels, float const* const* x, size_t rows, float* y);
    // Rounds a row [inputs] into codes, scales and sums as above.
    void (*round_row)(float const* x, size_t inputs, size_t group_size, int8_t* codes,
        float* scales, float* sums);
    float (*dot)(float const* a, float const* b, size_t size);
    // out[i] = silu(gate[i]) * up[i]
    void (*silu_mul)(float const* gate, float const* up, size_t size, float* out);
    // out [dim] = softmax(q . k[i]) v[i] over keys k and values v, each [count, dim]; count > 0.
    void (*attend)(
        float const* q, float const* k, float const* v, size_t count, size_t dim, float* out);
};

extern Kernels const kPortable;
#if defined(__x86_64__)
extern Kernels const kAvx2;
extern Kernels const kAvx512;
#endif

// The best table that this processor runs.
Kernels const& kernels();

// A half-precision number as float32, exactly.
inline float widen_half(uint16_t half)
{
    uint32_t const sign = (half & 0x8000u) << 16, rest = half & 0x7fffu;
    // The exponent is 112 less than float32's, which a product with 2^112 makes good for all numbers.
    uint32_t const bits = rest << 13;
    float value;
    __builtin_memcpy(&value, &bits, 4);
    value *= 0x1p112f;
    uint32_t widened;
    __builtin_memcpy(&widened, &value, 4);
    widened |= sign;
    __builtin_memcpy(&value, &widened, 4);
    return value;
}

inline QuantisedPanels QuantisedPanels::from(size_t panel) const
{
    QuantisedPanels rest = *this;
    rest.codes += panel * panel_bytes();
    rest.scales += panel * groups() * kPanel;
    if (zero_points != nullptr)
        rest.zero_points += panel * groups() * kPanel;
    return rest;
}

} // namespace river
