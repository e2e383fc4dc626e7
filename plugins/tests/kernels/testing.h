// What the kernel tests share: random values, errors, a tally. Device memory is in memory.h.
#pragma once

#include <cmath>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "memory.h"

namespace river::test
{
inline int& failures()
{
    static int count = 0;
    return count;
}
inline int& checks()
{
    static int count = 0;
    return count;
}
inline void check(bool ok, std::string const& what)
{
    ++checks();
    if (ok)
        return;
    ++failures();
    std::printf("FAIL %s\n", what.c_str());
}
// Arguments of every test program: the order of threads (CPU only), and `quick` for a small grid.
inline bool is_full(int argc, char** argv)
{
    return argc < 3 || std::strcmp(argv[2], "quick") != 0;
}
inline int report(char const* name)
{
    std::printf("%s: %d checks, %d failed\n", name, checks(), failures());
    return failures() == 0 && checks() > 0 ? 0 : 1;
}

// A generator that is the same everywhere, unlike std::normal_distribution.
class Random
{
public:
    explicit Random(uint64_t seed)
        : state_(seed * 0x9E3779B97F4A7C15ULL + 1)
    {
    }
    uint32_t next()
    {
        state_ = state_ * 6364136223846793005ULL + 1442695040888963407ULL;
        return static_cast<uint32_t>(state_ >> 33);
    }
    double uniform() // 0 .. 1
    {
        return next() / 2147483648.0;
    }
    double normal() // near enough: 12 times a variance of 1 / 12, cut to 4
    {
        return (uniform() + uniform() + uniform() + uniform() - 2.0) * 1.7320508;
    }

private:
    uint64_t state_;
};

template <typename T>
void put(Memory& memory, size_t i, double value)
{
    Numeric<T>::store(memory.as<void>(), i, static_cast<float>(value));
}
template <typename T>
double get(Memory& memory, size_t i)
{
    return Numeric<T>::load(memory.as<void>(), i);
}

// Filled with normal values of a spread, rounded to T.
template <typename T>
void fill(Memory& memory, size_t count, Random& random, double spread, double mean = 0.0)
{
    for (size_t i = 0; i < count; ++i)
        put<T>(memory, i, mean + spread * random.normal());
}

template <typename T>
constexpr DataType type_of()
{
    return std::is_same_v<T, __half> ? DataType::kHalf : DataType::kBfloat16;
}
template <typename T>
constexpr double tolerance() // of the relative L2 error
{
    return std::is_same_v<T, __half> ? 1e-3 : 8e-3;
}

inline double relative_error(std::vector<double> const& got, std::vector<double> const& expected)
{
    double difference = 0.0;
    double norm = 0.0;
    for (size_t i = 0; i < got.size(); ++i)
    {
        difference += (got[i] - expected[i]) * (got[i] - expected[i]);
        norm += expected[i] * expected[i];
    }
    double const error = std::sqrt(difference / (norm > 0.0 ? norm : 1.0));
    return error == error ? error : INFINITY; // NaN anywhere
}
} // namespace river::test
