// Attention of some queries over the keys of one head, for any instruction set whose registers
// `Vector` describes: kernels_ISA.cc make their `attend` of it. A query's result does not depend on
// the queries beside it, to the bit.
#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "kernel_loops.h"
#include "kernels.h"

namespace river
{

// Rows of the cache that are read some microseconds from now: to the second cache, whose queue of
// reads is longer than the first one's.
template <typename Value>
inline void fetch_rows(Value const* rows, size_t count, size_t dim)
{
    char const* at = reinterpret_cast<char const*>(rows);
    char const* const end = at + count * cached_width<Value>(dim) * sizeof(Value);
    for (; at < end; at += 64)
        __builtin_prefetch(at, 0, 2);
}

// scores[q][i] = q . k[i], for kQueries queries. kAtOnce keys are read for all of them.
template <typename Vector, size_t kQueries, size_t kAtOnce, typename Value>
inline void score_keys(
    float const* const* q, Value const* k, size_t dim, float (*scores)[kKeys], size_t at)
{
    typename Vector::Register sums[kQueries][4];
#pragma GCC unroll 8
    for (size_t r = 0; r < kQueries; ++r)
    {
#pragma GCC unroll 8
        for (size_t i = 0; i < kAtOnce; ++i)
            sums[r][i] = Vector::zero();
    }
    for (size_t d = 0; d < dim; d += Vector::kWidth)
    {
        typename Vector::Register keys[kAtOnce];
#pragma GCC unroll 8
        for (size_t i = 0; i < kAtOnce; ++i)
            keys[i] = Vector::load(k + i * cached_width<Value>(dim) + d);
#pragma GCC unroll 8
        for (size_t r = 0; r < kQueries; ++r)
        {
            typename Vector::Register const query = Vector::load(q[r] + d);
#pragma GCC unroll 8
            for (size_t i = 0; i < kAtOnce; ++i)
                sums[r][i] = Vector::multiply_add(query, keys[i], sums[r][i]);
        }
    }
#pragma GCC unroll 8
    for (size_t r = 0; r < kQueries; ++r)
    {
        if constexpr (kAtOnce == 4)
        {
            Vector::sum_four(sums[r], scores[r] + at);
        }
        else
        { // the same additions in the same order
            float four[4];
            sums[r][1] = sums[r][2] = sums[r][3] = sums[r][0];
            Vector::sum_four(sums[r], four);
            scores[r][at] = four[0];
        }
    }
}

// Scores, of which those from `first` to `seen` count, to weights on the scale of the largest score so far. Returns what brings earlier sums to that scale.
template <typename Vector>
[[gnu::noinline]] float weigh(
    float* scores, size_t first, size_t seen, float& largest, float& total)
{
    if (seen <= first)
    {
        std::fill(scores, scores + kKeys, 0.0f);
        return 1.0f;
    }
    std::fill(scores, scores + first, -INFINITY);
    std::fill(scores + seen, scores + kKeys, -INFINITY);
    float const now = std::max(largest, Vector::largest(scores));
    float const before = largest == now ? 1.0f : std::exp(largest - now);
    // Contracted here or nowhere: compilers would do it in one caller and not in another.
    total = std::fma(total, before, Vector::exponentials(scores, now));
    largest = now;
    return before;
}

// Not inlined, nor are `weigh` and `score_widened`: beside a caller's values GCC 12 keeps a sum in
// memory, and every addition waits for it.
// out[q][d] = out[q][d] * before[q] + sum_i weights[q][i] * v[i][d], for kWide registers of out.
template <typename Vector, size_t kQueries, size_t kWide, typename Value>
[[gnu::noinline]] void add_weighted(float const (*weights)[kKeys], Value const* v, size_t keys,
    size_t dim, float const* before, float* const* out, size_t at)
{
    typename Vector::Register sums[kQueries][kWide];
#pragma GCC unroll 8
    for (size_t r = 0; r < kQueries; ++r)
    {
#pragma GCC unroll 8
        for (size_t j = 0; j < kWide; ++j)
        {
            sums[r][j] = Vector::multiply(
                Vector::load(out[r] + at + j * Vector::kWidth), Vector::all(before[r]));
        }
    }
    for (size_t i = 0; i < keys; ++i)
    {
        typename Vector::Register values[kWide];
#pragma GCC unroll 8
        for (size_t j = 0; j < kWide; ++j)
            values[j] = Vector::load(v + i * cached_width<Value>(dim) + at + j * Vector::kWidth);
#pragma GCC unroll 8
        for (size_t r = 0; r < kQueries; ++r)
        {
            typename Vector::Register const weight = Vector::all(weights[r][i]);
#pragma GCC unroll 8
            for (size_t j = 0; j < kWide; ++j)
                sums[r][j] = Vector::multiply_add(weight, values[j], sums[r][j]);
        }
    }
#pragma GCC unroll 8
    for (size_t r = 0; r < kQueries; ++r)
    {
#pragma GCC unroll 8
        for (size_t j = 0; j < kWide; ++j)
            Vector::store(out[r] + at + j * Vector::kWidth, sums[r][j]);
    }
}

// weights[q][i] *= the scale of slot i, where slots have one.
template <size_t kQueries, typename Value>
inline void scale_weights(float (*weights)[kKeys], Value const* slots, size_t keys, size_t dim)
{
    if constexpr (sizeof(Value) == 1)
    {
        float scales[kKeys];
        for (size_t i = 0; i < keys; ++i)
            scales[i] = scale_of(slots + i * cached_width<Value>(dim), dim);
        for (size_t r = 0; r < kQueries; ++r)
        {
            for (size_t i = 0; i < keys; ++i)
                weights[r][i] *= scales[i];
        }
    }
}

template <typename Vector, size_t kQueries, typename Value>
void attend_queries(Queries& queries, Value const* k, Value const* v, size_t dim)
{
    alignas(64) float weights[kQueries][kKeys];
    size_t const most = *std::max_element(queries.counts, queries.counts + kQueries);
    for (size_t r = 0; r < kQueries; ++r)
    {
        std::fill(queries.out[r], queries.out[r] + dim, 0.0f);
        queries.largest[r] = -INFINITY;
        queries.total[r] = 0.0f;
    }
    size_t const width = cached_width<Value>(dim), step_by = kKeys * width;
    size_t const least = *std::min_element(queries.firsts, queries.firsts + kQueries);
    for (size_t start = 0; start < most; start += kKeys, k += step_by, v += step_by)
    {
        if (start + kKeys <= least)
            continue;
        size_t const keys = std::min(kKeys, most - start);
        // The core reads memory while it computes: this step's values, then the next one's keys.
        size_t const left = queries.ahead > start ? queries.ahead - start : 0;
        size_t const values = std::min(keys, left), next = std::min(keys, left - values);
        constexpr size_t kMost = Vector::kScored, kFirst = std::min(kQueries, kMost);
        for (size_t i = 0; i < keys;)
        {
            size_t const step = i + 4 <= keys ? 4 : 1;
            auto const score = [&](auto at_once)
            {
                constexpr size_t kAtOnce = decltype(at_once)::value;
                if (i < values)
                    fetch_rows(v + i * width, kAtOnce, dim);
                if (i < next)
                    fetch_rows(k + step_by + i * width, kAtOnce, dim);
                score_keys<Vector, kFirst, kAtOnce>(queries.q, k + i * width, dim, weights, i);
                if constexpr (kQueries > kMost)
                {
                    score_keys<Vector, kQueries - kMost, kAtOnce>(
                        queries.q + kMost, k + i * width, dim, weights + kMost, i);
                }
            };
            if (step == 4)
                score(std::integral_constant<size_t, 4>{});
            else
                score(std::integral_constant<size_t, 1>{});
            i += step;
        }
        scale_weights<kQueries>(weights, k, keys, dim);
        float before[kQueries];
        for (size_t r = 0; r < kQueries; ++r)
        {
            size_t const first = queries.firsts[r], count = queries.counts[r];
            before[r] = weigh<Vector>(weights[r], std::min(keys, first > start ? first - start : 0),
                std::min(keys, count > start ? count - start : 0), queries.largest[r],
                queries.total[r]);
        }
        scale_weights<kQueries>(weights, v, keys, dim);
        constexpr size_t kWide = Vector::kWide;
        size_t d = 0;
        for (; d + kWide * Vector::kWidth <= dim; d += kWide * Vector::kWidth)
        {
            add_weighted<Vector, kQueries, kWide>(weights, v, keys, dim, before, queries.out, d);
        }
        for (; d < dim; d += Vector::kWidth)
            add_weighted<Vector, kQueries, 1>(weights, v, keys, dim, before, queries.out, d);
    }
}

template <typename Vector, typename Value>
void attend_values(Queries& queries, Value const* k, Value const* v, size_t dim)
{
    static_assert(kMaxQueries == kMaxRows);
    with_rows(queries.size, [&](auto count) { attend_queries<Vector, count>(queries, k, v, dim); });
}

// dim: a multiple of the registers' width.
template <typename Vector>
void attend_with(Queries& queries, CachedRows k, CachedRows v, size_t dim)
{
    if (k.half != nullptr)
        return attend_values<Vector>(queries, k.half, v.half, dim);
    if (k.codes != nullptr)
        return attend_values<Vector>(queries, k.codes, v.codes, dim);
    attend_values<Vector>(queries, k.single, v.single, dim);
}

} // namespace river
