// What the kernel tests share: memory between guard pages, random values, errors, a tally.
#pragma once

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "numeric.cuh"

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
inline int report(char const* name)
{
    std::printf("%s: %d checks, %d failed\n", name, checks(), failures());
    return failures() == 0 && checks() > 0 ? 0 : 1;
}

// Device memory: its end lies against an inaccessible page (up to the 16 bytes of alignment), and
// so does its beginning's page. forbid() makes any access to it a fault.
class Memory
{
public:
    explicit Memory(size_t bytes)
        : bytes_(bytes)
    {
        size_t const page = 4096;
        size_t const padded = (bytes + 15) / 16 * 16;
        inside_ = (padded + page - 1) / page * page;
        base_ = static_cast<char*>(mmap(nullptr, inside_ + 2 * page, PROT_NONE,
            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
        if (base_ == MAP_FAILED || mprotect(base_ + page, inside_, PROT_READ | PROT_WRITE) != 0)
            std::abort();
        data_ = base_ + page + inside_ - padded;
    }
    Memory(Memory const&) = delete;
    Memory& operator=(Memory const&) = delete;
    ~Memory()
    {
        munmap(base_, inside_ + 2 * 4096);
    }
    void forbid()
    {
        if (mprotect(base_, inside_ + 2 * 4096, PROT_NONE) != 0)
            std::abort();
    }
    void poison() // NaN in every type, and flags that are neither 0 nor 1
    {
        std::memset(data_, 0xFF, bytes_);
    }
    template <typename T>
    T* as()
    {
        return reinterpret_cast<T*>(data_);
    }
    size_t bytes() const
    {
        return bytes_;
    }

private:
    size_t bytes_;
    size_t inside_;
    char* base_;
    char* data_;
};

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

// The exit status of `body` in a process of its own, or minus the signal that ended it.
inline int status_of_child(std::function<void()> const& body)
{
    std::fflush(nullptr);
    pid_t const child = fork();
    if (child == 0)
    {
        std::freopen("/dev/null", "w", stderr);
        body();
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}
} // namespace river::test
