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

// Keys or values of one head in the cache, [slots, cached_width]: float32, IEEE half precision, or
// codes of 8 bits with their scale, a float32, behind them.
struct CachedRows
{
    float* single = nullptr;
    uint16_t* half = nullptr;
    int8_t* codes = nullptr;

    CachedRows from(size_t value) const
    {
        return {single ? single + value : nullptr, half ? half + value : nullptr,
            codes ? codes + value : nullptr};
    }
};

// Values of a slot of the cache.
template <typename Value>
constexpr size_t cached_width(size_t head_dim)
{
    return head_dim + (sizeof(Value) == 1 ? sizeof(float) : 0);
}

// What a slot's values are multiples of.
template <typename Value>
inline float scale_of(Value const* slot, size_t head_dim)
{
    float scale = 1.0f;
    if constexpr (sizeof(Value) == 1)
        __builtin_memcpy(&scale, slot + head_dim, sizeof(float));
    return scale;
}

// A row rounded to 16 bits a group, or to 8 where the group's inputs are no larger than others: codes
// from -kMostFine to kMostFine, so that both their bytes and a group's integer products with 8-bit
// weights have room. All is as the table that made it likes.
struct FineRow
{
    int8_t const* codes; // two bytes an input [groups * group_size]
    float const* scales; // [groups]
    int32_t const* sums; // [groups]: of the codes
    uint8_t const* low;  // [groups]: whether the group has more than 8 bits
};
constexpr int kMostFine = 127 << 8;

// gelu(x) ~ x sigmoid(z) with z = kGelu (x + kGeluCubic x^3): 0.5 (1 + tanh(z / 2)) is sigmoid(z).
constexpr float kGelu = 1.5957691216057308f, kGeluCubic = 0.044715f;

constexpr size_t kMaxQueries = 6; // that share one read of a key
constexpr size_t kMaxBlocks = 16; // of queries that share keys widened once

// Queries that look at the same keys, and what they found.
struct Queries
{
    size_t size = 0;
    float const* q[kMaxQueries]; // [dim] each
    // The keys that each sees: from firsts to counts.
    size_t firsts[kMaxQueries] = {}, counts[kMaxQueries];
    // Sums over its keys: e^(score - largest) v, of `dim` values, and e^(score - largest).
    float* out[kMaxQueries];
    float largest[kMaxQueries], total[kMaxQueries];
    size_t ahead = 0; // keys, from the first on, that come from memory now; 0: from a cache
};

// kKeys keys and values of a head, or fewer, as float32. What they are multiples of lies beside them
// where the cache has scales.
struct WidenedKeys
{
    float* keys;      // [dim, kKeys]
    float* values;    // [kKeys, dim]
    float* scales[2]; // [kKeys], of keys and of values

    static constexpr size_t floats(size_t dim)
    {
        return 2 * (dim + 1) * kKeys;
    }
    static WidenedKeys in(float* buffer, size_t dim)
    {
        float* const scales = buffer + 2 * dim * kKeys;
        return {buffer, buffer + dim * kKeys, {scales, scales + kKeys}};
    }
};

struct Kernels
{
    char const* name;

    // y[row][16 * p + c] = sum_k x[row][k] * weight[p][k][c]; y [rows, panels * 16], any number of
    // rows.
    void (*dense)(
        DensePanels const& weight, size_t panels, float const* const* x, size_t rows, float* y);
    // The same with rounded rows, at most `most_rounded`: integer products within a group, float32 across groups.
    void (*rounded)(
        QuantisedPanels const& weight, size_t panels, RoundedRow const* x, size_t rows, float* y);
    // The same with fine rows, any number of them, and 8-bit codes.
    void (*fine)(
        QuantisedPanels const& weight, size_t panels, FineRow const* x, size_t rows, float* y);
    // The same with float32 rows: the codes are widened.
    void (*widened)(
        QuantisedPanels const& weight, size_t panels, float const* const* x, size_t rows, float* y);
    // Rounds a row [inputs] into codes, scales and sums as above.
    void (*round_row)(float const* x, size_t inputs, size_t group_size, int8_t* codes,
        float* scales, float* sums);
    // Rounds a row for this table's `fine`: a group to 8 bits, if that is faster, where no input is
    // larger than `coarse` times the row's root mean square.
    void (*round_fine)(float const* x, size_t inputs, size_t group_size, float coarse,
        int8_t* codes, float* scales, int32_t* sums, uint8_t* low);
    float (*dot)(float const* a, float const* b, size_t size);
    // out[i] = silu(gate[i]) * up[i]
    void (*silu_mul)(float const* gate, float const* up, size_t size, float* out);
    // out[i] = gelu(gate[i]) * up[i], with the tanh that approximates it
    void (*gelu_mul)(float const* gate, float const* up, size_t size, float* out);
    // Fills in what the queries find. One that sees no key finds zeros, and -inf as the largest.
    void (*attend)(Queries& queries, CachedRows k, CachedRows v, size_t dim);
    // To half precision, to nearest even; beyond its range, its largest number.
    void (*narrow)(float const* x, size_t size, uint16_t* out);
    size_t most_rounded = kMaxRows;

    // The same as `attend` for many blocks of queries of a prompt, in steps of kKeys keys, the first of which
    // finds zeros and -inf; each adds to what the queries found. For heads whose size is a multiple
    // of widened_multiple; where that is 0 there is none.
    size_t widened_multiple = 0;
    void (*widen)(
        CachedRows k, CachedRows v, size_t count, size_t dim, WidenedKeys const& to) = nullptr;
    void (*attend_widened)(Queries* blocks, size_t size, WidenedKeys const& of, bool scaled,
        size_t dim) = nullptr; // size: at most kMaxBlocks
};

extern Kernels const kPortable;
#if defined(__x86_64__)
extern Kernels const kAvx2;
extern Kernels const kAvx512;

Kernels const& amx_kernels();

// What AVX-512's `fine` adds for the low bytes of many rows.
void add_low_bytes(
    QuantisedPanels const& weight, size_t panels, FineRow const* x, size_t rows, float* y);

// Whether this processor has AMX, and the system lets this process use it.
bool has_amx();
#endif

// The best table that this processor runs, or the one that RIVER_TRT_CPU_KERNELS names. Throws
// std::invalid_argument where it names none.
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

// The nearest half-precision number, the even one of two; 65504 where there is none so large.
inline uint16_t narrow_half(float value)
{
    uint32_t bits;
    __builtin_memcpy(&bits, &value, 4);
    uint32_t const sign = bits >> 16 & 0x8000u;
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u)
        return static_cast<uint16_t>(sign | 0x7e00u); // NaN
    if (bits >= 0x477fe000u)
        return static_cast<uint16_t>(sign | 0x7bffu);
    if (bits < 0x38800000u)
    { // a subnormal: 2^-24 each, which adding 1/2 brings to the last bit
        float size;
        __builtin_memcpy(&size, &bits, 4);
        size += 0.5f;
        __builtin_memcpy(&bits, &size, 4);
        return static_cast<uint16_t>(sign | (bits - 0x3f000000u));
    }
    bits += 0xfffu + (bits >> 13 & 1u);
    return static_cast<uint16_t>(sign | (bits - 0x38000000u) >> 13);
}

// out [dim] = softmax(q . k[i]) v[i] over keys k and values v, each [count, dim]; count > 0.
inline void attend_all(Kernels const& kernels, float const* q, CachedRows k, CachedRows v,
    size_t count, size_t dim, float* out)
{
    Queries one;
    one.size = 1;
    one.q[0] = q;
    one.counts[0] = count;
    one.out[0] = out;
    kernels.attend(one, k, v, dim);
    for (size_t d = 0; d < dim; ++d)
        out[d] /= one.total[0];
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
