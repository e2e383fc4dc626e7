// Attention of a prompt's chunk: the cache is widened to float32 once for many blocks of queries, its
// keys with one key a lane, so that no score is summed across a register. A score's additions are
// those of attention.h in their order: a query's result is the same, to the bit.
#pragma once

#include "attention.h"

namespace river
{

// Of the same sums for kQueries queries and kRegisters registers of keys.
template <typename Vector>
constexpr size_t kScoreTile = Vector::kTileQueries * Vector::kTileRegisters;

// sums = the products' sums over kLanes of the lanes that `score_keys` adds up at the end, as its
// sum_four pairs them.
template <typename Vector, size_t kLanes>
[[gnu::always_inline]] inline void sum_lanes(float const* const* q, float const* keys, size_t dim,
    size_t first, typename Vector::Register (&sums)[kScoreTile<Vector>])
{
    constexpr size_t kQueries = Vector::kTileQueries, kRegisters = Vector::kTileRegisters;
    if constexpr (kLanes > 1)
    {
        typename Vector::Register more[kScoreTile<Vector>];
        sum_lanes<Vector, kLanes / 2>(q, keys, dim, first, sums);
        sum_lanes<Vector, kLanes / 2>(q, keys, dim, first + kLanes / 2, more);
#pragma GCC unroll 8
        for (size_t i = 0; i < kQueries * kRegisters; ++i)
            sums[i] = Vector::add(sums[i], more[i]);
    }
    else
    {
        auto const products = [&](size_t d, auto&& add)
        {
            typename Vector::Register of[kRegisters];
#pragma GCC unroll 8
            for (size_t i = 0; i < kRegisters; ++i)
                of[i] = Vector::held(Vector::load(keys + d * kKeys + i * Vector::kWidth));
#pragma GCC unroll 8
            for (size_t r = 0; r < kQueries; ++r)
            {
                typename Vector::Register const value = Vector::all(q[r][d]);
#pragma GCC unroll 8
                for (size_t i = 0; i < kRegisters; ++i)
                    add(sums[r * kRegisters + i], value, of[i]);
            }
        };
        using Register = typename Vector::Register;
#pragma GCC unroll 8
        for (size_t i = 0; i < kQueries * kRegisters; ++i)
            sums[i] = Vector::zero();
#pragma GCC unroll 2
        for (size_t d = Vector::lane(first); d < dim; d += Vector::kWidth)
            products(d, [](Register& sum, Register value, Register key)
            { sum = Vector::multiply_add(value, key, sum); });
    }
}

// scores[r][i] = q[r] . keys[i] for `keys` keys, and some behind them that do not count.
template <typename Vector>
[[gnu::noinline]] void score_widened(
    Queries const& queries, float const* keys, size_t count, size_t dim, float (*scores)[kKeys])
{
    constexpr size_t kQueries = Vector::kTileQueries, kRegisters = Vector::kTileRegisters;
    for (size_t start = 0; start < queries.size; start += kQueries)
    {
        float const* q[kQueries]; // the last one again where a block has fewer
        for (size_t r = 0; r < kQueries; ++r)
            q[r] = queries.q[std::min(start + r, queries.size - 1)];
        for (size_t i = 0; i < count; i += kRegisters * Vector::kWidth)
        {
            typename Vector::Register sums[kScoreTile<Vector>];
            sum_lanes<Vector, Vector::kWidth>(q, keys + i, dim, 0, sums);
#pragma GCC unroll 8
            for (size_t r = 0; r < kQueries; ++r)
            {
#pragma GCC unroll 8
                for (size_t j = 0; j < kRegisters; ++j)
                    Vector::store(
                        scores[start + r] + i + j * Vector::kWidth, sums[r * kRegisters + j]);
            }
        }
    }
}

template <typename Vector, typename Value>
void widen_values(Value const* k, Value const* v, size_t count, size_t dim, WidenedKeys const& to)
{
    constexpr size_t kWidth = Vector::kWidth;
    size_t const width = cached_width<Value>(dim);
    for (size_t i = 0; i < count; i += kWidth)
    {
        for (size_t d = 0; d < dim; d += kWidth)
        {
            typename Vector::Register block[kWidth];
            for (size_t j = 0; j < kWidth; ++j)
                block[j] = i + j < count ? Vector::load(k + (i + j) * width + d) : Vector::zero();
            Vector::transpose(block);
            for (size_t j = 0; j < kWidth; ++j)
                Vector::store(to.keys + (d + j) * kKeys + i, block[j]);
        }
    }
    for (size_t i = 0; i < count; ++i)
    {
        for (size_t d = 0; d < dim; d += kWidth)
            Vector::store(to.values + i * dim + d, Vector::load(v + i * width + d));
        to.scales[0][i] = scale_of(k + i * width, dim);
        to.scales[1][i] = scale_of(v + i * width, dim);
    }
}

template <typename Vector>
void widen_with(CachedRows k, CachedRows v, size_t count, size_t dim, WidenedKeys const& to)
{
    if (k.half != nullptr)
        return widen_values<Vector>(k.half, v.half, count, dim, to);
    if (k.codes != nullptr)
        return widen_values<Vector>(k.codes, v.codes, count, dim, to);
    widen_values<Vector>(k.single, v.single, count, dim, to);
}

// out += of some queries from `first` on.
template <typename Vector, size_t kQueries>
void add_widened(Queries& queries, size_t first, float const (*weights)[kKeys], float const* before,
    float const* values, size_t count, size_t dim)
{
    constexpr size_t kWide = Vector::kWide;
    size_t d = 0;
    for (; d + kWide * Vector::kWidth <= dim; d += kWide * Vector::kWidth)
    {
        add_weighted<Vector, kQueries, kWide>(
            weights + first, values, count, dim, before + first, queries.out + first, d);
    }
    for (; d < dim; d += Vector::kWidth)
    {
        add_weighted<Vector, kQueries, 1>(
            weights + first, values, count, dim, before + first, queries.out + first, d);
    }
}

// What a block's queries find, of their scores.
template <typename Vector>
void add_block(Queries& queries, WidenedKeys const& of, bool scaled, size_t count, size_t dim,
    float (*weights)[kKeys])
{
    float before[kMaxQueries];
    for (size_t r = 0; r < queries.size; ++r)
    {
        for (size_t i = 0; scaled && i < count; ++i)
            weights[r][i] *= of.scales[0][i];
        before[r] =
            weigh<Vector>(weights[r], 0, queries.counts[r], queries.largest[r], queries.total[r]);
        for (size_t i = 0; scaled && i < count; ++i)
            weights[r][i] *= of.scales[1][i];
    }
    if (queries.size == kMaxQueries)
        return add_widened<Vector, kMaxQueries>(queries, 0, weights, before, of.values, count, dim);
    for (size_t r = 0; r < queries.size; ++r)
        add_widened<Vector, 1>(queries, r, weights, before, of.values, count, dim);
}

// Queries see all keys from the first on. dim: a multiple of the registers' width. All blocks find
// their scores before one reads a value: keys and values together leave no room in the first cache.
template <typename Vector>
void attend_widened_with(
    Queries* blocks, size_t size, WidenedKeys const& of, bool scaled, size_t dim)
{
    alignas(64) float weights[kMaxBlocks][kMaxQueries + Vector::kTileQueries - 1][kKeys];
    size_t counts[kMaxBlocks];
    for (size_t b = 0; b < size; ++b)
    {
        Queries const& queries = blocks[b];
        counts[b] = *std::max_element(queries.counts, queries.counts + queries.size);
        score_widened<Vector>(queries, of.keys, counts[b], dim, weights[b]);
    }
    for (size_t b = 0; b < size; ++b)
        add_block<Vector>(blocks[b], of, scaled, counts[b], dim, weights[b]);
}

} // namespace river
