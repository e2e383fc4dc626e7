// The kernels of every instruction set that this processor has, against sums in double precision.
// Prints what failed, and exits with 1 where something did.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernels.h"

using namespace river;

namespace river
{
Kernels const& emulated_amx_kernels();
} // namespace river

namespace
{

std::mt19937 rng(0);
int failures = 0;

void expect(bool fine, std::string const& what)
{
    if (!fine)
    {
        std::printf("FAILED: %s\n", what.c_str());
        ++failures;
    }
}

std::vector<float> normals(size_t count)
{
    std::normal_distribution<float> normal;
    std::vector<float> values(count);
    for (float& value : values)
        value = normal(rng);
    return values;
}

bool near(float value, double wanted, double tolerance)
{
    return std::abs(value - wanted) <= tolerance * (1.0 + std::abs(wanted));
}

// A quantised weight, its panels and what they stand for.
struct Quantised
{
    size_t inputs, panels, group_size;
    int bits;
    bool symmetric;
    std::vector<uint8_t> codes, zero_points;
    std::vector<float> scales;
    std::vector<double> values; // [panels * 16, inputs]

    Quantised(
        size_t inputs, size_t panels, size_t group_size, int bits, bool symmetric, bool extreme)
        : inputs(inputs)
        , panels(panels)
        , group_size(group_size)
        , bits(bits)
        , symmetric(symmetric)
    {
        size_t const groups = (inputs + group_size - 1) / group_size;
        int const top = (1 << bits) - 1;
        std::uniform_int_distribution<int> any(0, top);
        std::uniform_real_distribution<float> scale(0.01f, 0.02f);
        codes.assign(panels * groups * group_size * kPanel * bits / 8, 0);
        zero_points.resize(panels * groups * kPanel);
        scales.resize(panels * groups * kPanel);
        values.resize(panels * kPanel * inputs);
        for (size_t i = 0; i < scales.size(); ++i)
        {
            scales[i] = scale(rng);
            zero_points[i] = static_cast<uint8_t>(symmetric ? 8 : any(rng));
        }
        for (size_t p = 0; p < panels; ++p)
        {
            for (size_t c = 0; c < kPanel; ++c)
            {
                for (size_t k = 0; k < groups * group_size; ++k)
                {
                    size_t const g = k / group_size, block = p * groups + g, q = k % group_size / 4;
                    int const code = extreme ? top : any(rng);
                    uint8_t* at =
                        codes.data() + block * group_size * kPanel * bits / 8 + q * 8 * bits;
                    if (bits == 8)
                    {
                        at[c * 4 + k % 4] = static_cast<uint8_t>(code);
                    }
                    else
                    {
                        at[c % 8 * 4 + k % 4] |= static_cast<uint8_t>(c < 8 ? code : code << 4);
                    }
                    if (k < inputs)
                    {
                        values[(p * kPanel + c) * inputs + k] =
                            (code - int{zero_points[block * kPanel + c]})
                            * double{scales[block * kPanel + c]};
                    }
                }
            }
        }
    }

    QuantisedPanels view() const
    {
        return {codes.data(), scales.data(), symmetric ? nullptr : zero_points.data(), inputs,
            group_size, bits};
    }
};

struct Rounded
{
    std::vector<int8_t> codes;
    std::vector<float> scales, sums;

    Rounded(Kernels const& kernels, float const* x, size_t inputs, size_t group_size)
    {
        size_t const groups = (inputs + group_size - 1) / group_size;
        codes.assign(groups * group_size, 99);
        scales.resize(groups);
        sums.resize(groups);
        kernels.round_row(x, inputs, group_size, codes.data(), scales.data(), sums.data());
    }
};

// Rows of a table's own rounding to 16 bits, or 8, `gap` rows of nothing behind the first.
struct Fine
{
    std::vector<int8_t> codes;
    std::vector<float> scales;
    std::vector<int32_t> sums;
    std::vector<uint8_t> low;
    std::vector<FineRow> rows;

    Fine(Kernels const& kernels, std::vector<float> const& x, size_t inputs, size_t group_size,
        float coarse, size_t gap = 0)
    {
        size_t const count = x.size() / inputs, groups = (inputs + group_size - 1) / group_size;
        size_t const width = 2 * groups * group_size;
        codes.assign((count + gap) * width, 99);
        scales.resize(count * groups);
        sums.resize(count * groups);
        low.assign(count * groups, 1);
        for (size_t r = 0; r < count; ++r)
        {
            int8_t* at = codes.data() + (r + (r > 0 ? gap : 0)) * width;
            float* scale = scales.data() + r * groups;
            int32_t* sum = sums.data() + r * groups;
            uint8_t* some = low.data() + r * groups;
            kernels.round_fine(
                x.data() + r * inputs, inputs, group_size, coarse, at, scale, sum, some);
            rows.push_back({at, scale, sum, some});
        }
    }
};

// Half-precision numbers of every kind but infinities, and what they are.
uint16_t any_half()
{
    std::uniform_int_distribution<int> exponent(0, 16), mantissa(0, 1023), sign(0, 1);
    return static_cast<uint16_t>(sign(rng) << 15 | exponent(rng) << 10 | mantissa(rng));
}

double value_of(uint16_t half)
{
    int const exponent = half >> 10 & 31, mantissa = half & 1023;
    double const size =
        exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
    return half & 0x8000 ? -size : size;
}

void test_widen_half()
{
    for (uint32_t half = 0; half < 0x10000; ++half)
    {
        if ((half >> 10 & 31) == 31)
            continue;
        expect(widen_half(static_cast<uint16_t>(half)) == value_of(static_cast<uint16_t>(half)),
            "widen_half: wrong value");
    }
}

void test_dense(Kernels const& kernels, bool halves)
{
    for (size_t inputs : {1, 7, 64, 96, 577})
    {
        for (size_t panels : {1, 2, 3})
        {
            size_t const count = panels * inputs * kPanel;
            auto const single = normals(count), x = normals((kMaxRows + 2) * inputs);
            std::vector<uint16_t> half(count);
            for (uint16_t& value : half)
                value = any_half();
            DensePanels weight;
            weight.inputs = inputs;
            if (halves)
            {
                weight.half = half.data();
            }
            else
            {
                weight.single = single.data();
            }
            for (size_t rows = 1; rows <= kMaxRows + 2; ++rows)
            {
                std::vector<float const*> pointers;
                for (size_t r = 0; r < rows; ++r)
                    pointers.push_back(x.data() + r * inputs);
                std::vector<float> y(rows * panels * kPanel, NAN), alone(panels * kPanel);
                kernels.dense(weight, panels, pointers.data(), rows, y.data());
                for (size_t r = 0; r < rows; ++r)
                {
                    kernels.dense(weight, panels, &pointers[r], 1, alone.data());
                    float const* row = y.data() + r * panels * kPanel;
                    expect(
                        std::equal(alone.begin(), alone.end(), row), "dense: a row alone differs");
                    kernels.dense(weight.from(panels - 1), 1, &pointers[r], 1, alone.data());
                    expect(std::equal(
                               alone.begin(), alone.begin() + kPanel, row + (panels - 1) * kPanel),
                        "dense: a panel alone differs");
                    for (size_t n = 0; n < panels * kPanel; ++n)
                    {
                        double wanted = 0.0, size = 1.0;
                        for (size_t k = 0; k < inputs; ++k)
                        {
                            size_t const at = (n / kPanel * inputs + k) * kPanel + n % kPanel;
                            double const term =
                                x[r * inputs + k] * (halves ? value_of(half[at]) : single[at]);
                            wanted += term;
                            size += std::abs(term);
                        }
                        expect(std::abs(row[n] - wanted) <= 1e-5 * size, "dense: wrong sum");
                    }
                }
            }
        }
    }
}

void test_quantised(Kernels const& kernels)
{
    for (int bits : {4, 8})
    {
        for (size_t group_size : {32, 64, 96, 128})
        {
            for (size_t inputs : {group_size, 2 * group_size, group_size + 4, group_size - 28})
            {
                for (bool symmetric : {false, true})
                {
                    for (bool extreme : {false, true})
                    {
                        if (symmetric && bits == 8)
                            continue; // not offered
                        Quantised const weight(inputs, 3, group_size, bits, symmetric, extreme);
                        auto x = normals(kMaxRows * inputs);
                        if (extreme)
                            std::fill(x.begin(), x.begin() + inputs, 3.0f); // every product largest
                        if (extreme)
                            std::fill(x.begin() + inputs, x.begin() + 2 * inputs, -3.0f);
                        std::vector<Rounded> rounded;
                        std::vector<RoundedRow> views;
                        std::vector<float const*> pointers;
                        for (size_t r = 0; r < kMaxRows; ++r)
                        {
                            pointers.push_back(x.data() + r * inputs);
                            rounded.emplace_back(kernels, pointers[r], inputs, group_size);
                        }
                        for (Rounded const& r : rounded)
                        {
                            views.push_back({r.codes.data(), r.scales.data(), r.sums.data()});
                        }
                        size_t const columns = 3 * kPanel;
                        for (size_t rows = 1; rows <= kMaxRows; ++rows)
                        {
                            std::vector<float> y(rows * columns, NAN), wide(rows * columns, NAN),
                                alone(columns);
                            kernels.rounded(weight.view(), 3, views.data(), rows, y.data());
                            kernels.widened(weight.view(), 3, pointers.data(), rows, wide.data());
                            for (size_t r = 0; r < rows; ++r)
                            {
                                kernels.rounded(weight.view(), 3, &views[r], 1, alone.data());
                                expect(
                                    std::equal(alone.begin(), alone.end(), y.begin() + r * columns),
                                    "rounded: a row alone differs");
                                kernels.widened(weight.view(), 3, &pointers[r], 1, alone.data());
                                expect(std::equal(
                                           alone.begin(), alone.end(), wide.begin() + r * columns),
                                    "widened: a row alone differs");
                                for (size_t n = 0; n < columns; ++n)
                                {
                                    double exact = 0.0, coarse = 0.0;
                                    for (size_t k = 0; k < inputs; ++k)
                                    {
                                        double const value = weight.values[n * inputs + k];
                                        exact += value * x[r * inputs + k];
                                        coarse += value * rounded[r].codes[k]
                                            * rounded[r].scales[k / group_size];
                                    }
                                    expect(near(y[r * columns + n], coarse, 1e-4),
                                        "rounded: wrong sum");
                                    expect(near(wide[r * columns + n], exact, 1e-4),
                                        "widened: wrong sum");
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

void test_fine(Kernels const& kernels, size_t group_size, size_t inputs, bool symmetric,
    bool extreme, float coarse)
{
    constexpr size_t kRows = 40, kPanels = 3;
    Quantised const weight(inputs, kPanels, group_size, 8, symmetric, extreme);
    auto x = normals(kRows * inputs);
    if (extreme) // every product largest, of both signs; and a row of zeros
    {
        std::fill(x.begin(), x.begin() + inputs, 3.0f);
        std::fill(x.begin() + inputs, x.begin() + 2 * inputs, -3.0f);
        std::fill(x.begin() + 2 * inputs, x.begin() + 3 * inputs, 0.0f);
    }
    for (size_t r = 3; r < kRows; r += 2) // an input that is larger than the others of its row
        x[r * inputs + r % inputs] = 20.0f;
    Fine const fine(kernels, x, inputs, group_size, coarse);
    std::vector<float> alone(kPanels * kPanel);
    for (size_t rows :
        {size_t{1}, size_t{2}, size_t{3}, size_t{4}, size_t{5}, size_t{6}, size_t{7}, kRows})
    {
        std::vector<float> y(rows * alone.size(), NAN);
        kernels.fine(weight.view(), kPanels, fine.rows.data(), rows, y.data());
        for (size_t r = 0; r < rows; ++r)
        {
            kernels.fine(weight.view(), kPanels, &fine.rows[r], 1, alone.data());
            float const* row = y.data() + r * alone.size();
            expect(std::equal(alone.begin(), alone.end(), row), "fine: a row alone differs");
            double squares = 0.0;
            for (size_t k = 0; k < inputs; ++k)
                squares += double{x[r * inputs + k]} * x[r * inputs + k];
            double const most = coarse * std::sqrt(squares / inputs);
            for (size_t n = 0; rows == kRows && n < alone.size(); ++n)
            { // each input is off by half a unit of its group at most
                double exact = 0.0, size = 0.0, off = 0.0;
                for (size_t g = 0; g * group_size < inputs; ++g)
                {
                    double largest = 0.0, weights = 0.0;
                    for (size_t k = g * group_size; k < std::min(inputs, (g + 1) * group_size); ++k)
                    {
                        double const value = weight.values[n * inputs + k];
                        double const of = x[r * inputs + k];
                        exact += value * of;
                        size += std::abs(value * of);
                        largest = std::max(largest, std::abs(of));
                        weights += std::abs(value);
                    }
                    bool const low = fine.rows[r].low[g];
                    expect(low || largest <= 1.0001 * most, "fine: 8 bits of a large input");
                    off += 0.5001 * largest / (low ? kMostFine : 127) * weights;
                }
                expect(std::abs(row[n] - exact) <= off + 1e-6 * size, "fine: wrong sum");
            }
        }
    }
}

void test_fine(Kernels const& kernels)
{
    for (size_t group_size : {32, 64, 96, 128})
    {
        for (size_t inputs : {group_size, 2 * group_size, group_size + 5, group_size - 28})
        {
            for (bool symmetric : {false, true})
            {
                for (bool extreme : {false, true})
                {
                    for (float coarse : {0.0f, 2.5f, 100.0f})
                        test_fine(kernels, group_size, inputs, symmetric, extreme, coarse);
                }
            }
        }
    }
    // What is not finite is not hidden, and nothing overflows on the way.
    for (float bad : {INFINITY, -INFINITY, NAN})
    {
        for (float coarse : {0.0f, 5.0f})
        {
            Quantised const weight(128, 1, 128, 8, false, true);
            std::vector<float> x(128, bad), y(kPanel);
            Fine const fine(kernels, x, 128, 128, coarse);
            kernels.fine(weight.view(), 1, fine.rows.data(), 1, y.data());
            expect(
                std::isnan(bad) || !std::isfinite(y[0]), "fine: an infinite input gave a number");
        }
    }
}

void test_round_row(Kernels const& kernels)
{
    for (size_t inputs : {3, 32, 40, 100})
    {
        auto x = normals(inputs);
        if (inputs == 40)
            std::fill(x.begin(), x.begin() + 32, 0.0f); // a group of zeros
        Rounded const rounded(kernels, x.data(), inputs, 32);
        for (size_t g = 0; g < rounded.scales.size(); ++g)
        {
            float largest = 0.0f, sum = 0.0f;
            for (size_t k = g * 32; k < (g + 1) * 32; ++k)
            {
                sum += rounded.codes[k];
                if (k < inputs)
                    largest = std::max(largest, std::abs(x[k]));
                float const value = k < inputs ? x[k] : 0.0f;
                float const error = std::abs(rounded.codes[k] * rounded.scales[g] - value);
                expect(error <= 0.5001f * rounded.scales[g], "round_row: not the nearest code");
            }
            expect(near(rounded.scales[g], largest / 127.0, 1e-6), "round_row: wrong scale");
            expect(rounded.sums[g] == sum, "round_row: wrong sum");
        }
    }
}

void test_vectors(Kernels const& kernels)
{
    for (size_t size : {1, 8, 31, 64, 576})
    {
        auto const a = normals(size), b = normals(size);
        double wanted = 0.0;
        for (size_t i = 0; i < size; ++i)
            wanted += double{a[i]} * b[i];
        expect(near(kernels.dot(a.data(), b.data(), size), wanted, 1e-5), "dot: wrong sum");
    }
    std::vector<float> gate, up, out;
    for (float x = -120.0f; x <= 120.0f; x += 0.37f)
        gate.push_back(x);
    up.assign(gate.size(), 2.0f);
    out.resize(gate.size());
    kernels.silu_mul(gate.data(), up.data(), gate.size(), out.data());
    for (size_t i = 0; i < gate.size(); ++i)
    {
        double const wanted = 2.0 * gate[i] / (1.0 + std::exp(-double{gate[i]}));
        expect(near(out[i], wanted, 1e-6), "silu_mul: wrong value");
    }
    kernels.gelu_mul(gate.data(), up.data(), gate.size(), out.data());
    for (size_t i = 0; i < gate.size(); ++i)
    {
        double const x = gate[i];
        double const z = std::sqrt(2.0 / std::acos(-1.0)) * (x + 0.044715 * x * x * x);
        expect(near(out[i], x * (1.0 + std::tanh(z)), 1e-6), "gelu_mul: wrong value");
    }
}

void test_narrow(Kernels const& kernels)
{
    std::vector<float> values = {0.0f, -0.0f, 1.0f, 65504.0f, 65519.0f, 65520.0f, -1e9f, 1e-9f,
        5.9e-8f, 6.1e-5f, 0x1p-14f, 0x1.ffcp-15f, 0x1.002p0f, 0x1.006p0f, 0x1.0021p0f};
    for (uint32_t half = 0; half < 0x7bff; ++half)
    { // the number, and what lies between it and the next
        float const value = widen_half(static_cast<uint16_t>(half));
        float const next = widen_half(static_cast<uint16_t>(half + 1));
        values.insert(values.end(),
            {value, -value, (value + next) / 2, std::nextafter((value + next) / 2, 0.0f),
                std::nextafter((value + next) / 2, 1e9f)});
    }
    std::vector<uint16_t> halves(values.size());
    kernels.narrow(values.data(), values.size(), halves.data());
    for (size_t i = 0; i < values.size(); ++i)
    {
        double const size = std::min(std::abs(double{values[i]}), 65504.0);
        int exponent = 0;
        std::frexp(size, &exponent);
        double const unit = std::ldexp(1.0, std::max(exponent - 11, -24));
        double const wanted = std::min(65504.0, std::nearbyint(size / unit) * unit);
        expect(value_of(halves[i]) == (std::signbit(values[i]) ? -wanted : wanted),
            "narrow: not the nearest");
    }
}

// Keys or values of one head, in a cache of each precision, and what they are.
enum class Held
{
    kSingle,
    kHalf,
    kCodes
};

struct Cache
{
    std::vector<float> single;
    std::vector<uint16_t> half;
    std::vector<int8_t> codes;

    Cache(size_t slots, size_t dim, Held held)
        : single(normals(slots * dim))
        , half(held == Held::kHalf ? slots * dim : 0)
        , codes(held == Held::kCodes ? slots * cached_width<int8_t>(dim) : 0)
    {
        for (size_t i = 0; i < slots && !codes.empty(); ++i)
        {
            int8_t* slot = codes.data() + i * cached_width<int8_t>(dim);
            float scale = 0.0f, sum = 0.0f;
            kPortable.round_row(single.data() + i * dim, dim, dim, slot, &scale, &sum);
            std::memcpy(slot + dim, &scale, sizeof(scale));
            for (size_t d = 0; d < dim; ++d)
                single[i * dim + d] = slot[d] * scale;
        }
        for (size_t i = 0; i < half.size(); ++i)
        {
            half[i] = narrow_half(single[i]);
            single[i] = widen_half(half[i]);
        }
    }
    CachedRows rows()
    {
        CachedRows rows;
        if (!codes.empty())
            rows.codes = codes.data();
        else if (!half.empty())
            rows.half = half.data();
        else
            rows.single = single.data();
        return rows;
    }
};

void test_attend(
    Kernels const& kernels, size_t dim, size_t count, bool windows, Held held, float scale)
{
    Cache k(count, dim, held), v(count, dim, held);
    auto q = normals(kMaxQueries * dim);
    for (float& value : q)
        value *= scale; // of the scores: all keys count, or one
    for (size_t size = 1; size <= kMaxQueries; ++size)
    {
        std::vector<float> out(size * dim, NAN), alone(dim);
        Queries queries;
        queries.size = size;
        for (size_t r = 0; r < size; ++r)
        {
            queries.q[r] = q.data() + r * dim;
            queries.counts[r] = count > r ? count - r : 0; // of a chunk's tokens, and none
            queries.firsts[r] = windows && count > 2 * r ? std::min(count - r, 50 + 17 * r) : 0;
            queries.out[r] = out.data() + r * dim;
        }
        kernels.attend(queries, k.rows(), v.rows(), dim);
        for (size_t r = 0; r < size; ++r)
        {
            size_t const first = queries.firsts[r], seen = queries.counts[r];
            std::vector<double> weights(seen, -INFINITY), wanted(dim);
            double largest = -INFINITY, total = 0.0;
            for (size_t i = first; i < seen; ++i)
            {
                weights[i] = 0.0;
                for (size_t d = 0; d < dim; ++d)
                    weights[i] += double{queries.q[r][d]} * k.single[i * dim + d];
                largest = std::max(largest, weights[i]);
            }
            for (double& weight : weights)
                total += weight = std::exp(weight - largest);
            for (size_t i = first; i < seen; ++i)
            {
                for (size_t d = 0; d < dim; ++d)
                    wanted[d] += weights[i] / total * v.single[i * dim + d];
            }
            if (seen <= first)
            {
                expect(queries.total[r] == 0.0f && queries.largest[r] == -INFINITY,
                    "attend: something found among no keys");
                continue;
            }
            for (size_t d = 0; d < dim; ++d)
            {
                expect(near(queries.out[r][d] / queries.total[r], wanted[d], scale * 1e-5),
                    "attend: wrong value");
            }
            Queries one;
            one.size = 1;
            one.q[0] = queries.q[r];
            one.firsts[0] = first;
            one.counts[0] = seen;
            one.out[0] = alone.data();
            kernels.attend(one, k.rows(), v.rows(), dim);
            for (size_t d = 0; d < dim; ++d)
            {
                expect(alone[d] == queries.out[r][d] && one.total[0] == queries.total[r],
                    "attend: a query alone differs");
            }
        }
    }
}

// Keys widened for many queries give what `attend` gives, to the bit.
void test_widened(Kernels const& kernels, size_t dim, size_t count, Held held, float scale)
{
    Cache k(count, dim, held), v(count, dim, held);
    auto q = normals(kMaxQueries * dim);
    for (float& value : q)
        value *= scale;
    size_t const width = held == Held::kCodes ? cached_width<int8_t>(dim) : dim;
    std::vector<float> buffer(WidenedKeys::floats(dim), NAN);
    WidenedKeys const widened = WidenedKeys::in(buffer.data(), dim);
    constexpr size_t kBlocks = kMaxQueries; // of 1, 2 and so on queries
    Queries blocks[kBlocks], by_attend[kBlocks];
    std::vector<float> out[kBlocks], wanted[kBlocks];
    for (size_t b = 0; b < kBlocks; ++b)
    {
        size_t const size = blocks[b].size = by_attend[b].size = b + 1;
        out[b].assign(size * dim, 0.0f);
        wanted[b].assign(size * dim, NAN);
        for (size_t r = 0; r < size; ++r)
        {
            size_t const missed = 2 * r + 3 * b;
            blocks[b].q[r] = by_attend[b].q[r] = q.data() + (r + b) % kMaxQueries * dim;
            by_attend[b].counts[r] = count > missed ? count - missed : 0;
            blocks[b].out[r] = out[b].data() + r * dim;
            by_attend[b].out[r] = wanted[b].data() + r * dim;
            blocks[b].largest[r] = -INFINITY;
            blocks[b].total[r] = 0.0f;
        }
        kernels.attend(by_attend[b], k.rows(), v.rows(), dim);
    }
    for (size_t key = 0; key < count; key += kKeys)
    {
        for (size_t b = 0; b < kBlocks; ++b)
        {
            for (size_t r = 0; r < blocks[b].size; ++r)
            {
                size_t const seen = by_attend[b].counts[r];
                blocks[b].counts[r] = std::min(kKeys, seen > key ? seen - key : 0);
            }
        }
        kernels.widen(k.rows().from(key * width), v.rows().from(key * width),
            std::min(kKeys, count - key), dim, widened);
        kernels.attend_widened(blocks, kBlocks, widened, held == Held::kCodes, dim);
    }
    for (size_t b = 0; b < kBlocks; ++b)
    {
        size_t const size = blocks[b].size;
        expect(std::equal(blocks[b].total, blocks[b].total + size, by_attend[b].total)
                && std::equal(blocks[b].largest, blocks[b].largest + size, by_attend[b].largest),
            "attend_widened: other weights than attend's");
        expect(out[b] == wanted[b], "attend_widened: other values than attend's");
    }
}

void test_attend(Kernels const& kernels)
{
    for (size_t dim : {4, 8, 16, 32, 40, 64, 80, 128})
    {
        for (size_t count : {1, 3, 15, 63, 64, 65, 200})
        {
            for (Held held : {Held::kSingle, Held::kHalf, Held::kCodes})
            {
                for (float scale : {1.0f, 30.0f})
                {
                    test_attend(kernels, dim, count, false, held, scale);
                    test_attend(kernels, dim, count, true, held, scale);
                    if (kernels.widened_multiple != 0 && dim % kernels.widened_multiple == 0)
                        test_widened(kernels, dim, count, held, scale);
                }
            }
        }
    }
}

#if defined(__x86_64__)
// Many rows at a time equal the same rows by another table, to the bit.
void test_tiles(Kernels const& many, Kernels const& few)
{
    for (int bits : {4, 8})
    {
        for (size_t group_size : {32, 64, 128})
        {
            for (bool symmetric : {false, true})
            {
                // Enough of one size that the inputs are worked on in parts.
                size_t const groups = group_size == 64 ? 23 : 3, panels = 3;
                size_t const inputs = groups * group_size - 20;
                Quantised const weight(inputs, panels, group_size, bits, symmetric, false);
                size_t const width = groups * group_size, most = many.most_rounded;
                auto const x = normals(most * inputs);
                std::vector<int8_t> codes(2 * most * width);
                std::vector<float> scales(most * groups), sums(most * groups);
                for (size_t gap : {0, 1, 20}) // uneven from the row on
                {
                    std::vector<RoundedRow> rows;
                    for (size_t r = 0; r < most; ++r)
                    {
                        size_t const place = (r + (gap != 0 && r >= gap)) * width;
                        few.round_row(x.data() + r * inputs, inputs, group_size,
                            codes.data() + place, scales.data() + groups * r,
                            sums.data() + groups * r);
                        rows.push_back({codes.data() + place, scales.data() + groups * r,
                            sums.data() + groups * r});
                    }
                    for (size_t count : {size_t{15}, size_t{16}, size_t{39}, most})
                    {
                        std::vector<float> y(count * panels * kPanel, NAN), alone(panels * kPanel);
                        many.rounded(weight.view(), panels, rows.data(), count, y.data());
                        for (size_t r = 0; r < count; ++r)
                        {
                            few.rounded(weight.view(), panels, &rows[r], 1, alone.data());
                            expect(std::equal(
                                       alone.begin(), alone.end(), y.begin() + r * panels * kPanel),
                                "tiles: a row alone differs");
                        }
                    }
                }
            }
        }
    }
    for (size_t group_size : {32, 64, 128})
    {
        size_t const inputs = (group_size == 64 ? 12 : 3) * group_size - 20, panels = 3;
        Quantised const weight(inputs, panels, group_size, 8, false, false);
        auto const x = normals(50 * inputs);
        for (size_t gap : {0, 1})
        {
            Fine const fine(few, x, inputs, group_size, 2.5f, gap);
            std::vector<float> y(50 * panels * kPanel, NAN), wanted(50 * panels * kPanel);
            many.fine(weight.view(), panels, fine.rows.data(), 50, y.data());
            few.fine(weight.view(), panels, fine.rows.data(), 50, wanted.data());
            expect(y == wanted, "tiles: fine rows differ");
        }
    }
}
#endif

void test_all(Kernels const& kernels)
{
    test_dense(kernels, false);
    test_dense(kernels, true);
    test_quantised(kernels);
    test_fine(kernels);
    test_round_row(kernels);
    test_vectors(kernels);
    test_narrow(kernels);
    test_attend(kernels);
    std::printf("tested: %s\n", kernels.name);
}

} // namespace

int main()
{
    test_widen_half();
    test_all(kPortable);
#if defined(__x86_64__)
    // The table of tiles is made by code of AVX-512: not before it is known that it runs here.
    bool const tiles = has_amx() && &kernels() != &kPortable && &kernels() != &kAvx2;
    if (tiles && &kernels() == &amx_kernels())
    {
        test_all(kAvx512);
        test_tiles(amx_kernels(), kAvx512);
    }
    if (&kernels() == &kAvx512)
    {
        test_tiles(emulated_amx_kernels(), kAvx512);
        std::printf("tested: tiles in software\n");
    }
    if (&kernels() != &kPortable && &kernels() != &kAvx2)
        test_all(kAvx2);
#endif
    if (&kernels() != &kPortable)
        test_all(kernels());
    return failures != 0;
}
