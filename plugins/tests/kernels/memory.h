// Device memory of the tests, and the end of a launch: on the CPU shim or on a real GPU.
#pragma once

#include <cstdlib>
#include <functional>

#include "numeric.cuh"

#if defined(RIVER_CPU_SHIM)
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#endif

namespace river::test
{
#if defined(RIVER_CPU_SHIM)
constexpr bool kOnGpu = false;

inline void set_thread_order(unsigned order)
{
    shim::thread_order() = order;
}
inline bool finished(cudaError_t error)
{
    return error == cudaSuccess;
}

// Pages between two inaccessible ones. The data end against the second one, up to the 16 bytes of
// alignment, so an overrun faults.
class Memory
{
public:
    explicit Memory(size_t bytes)
        : bytes_(bytes)
    {
        size_t const padded = (bytes + 15) / 16 * 16;
        inside_ = (padded + kPage - 1) / kPage * kPage;
        base_ = static_cast<char*>(mmap(nullptr, inside_ + 2 * kPage, PROT_NONE,
            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
        if (base_ == MAP_FAILED || mprotect(base_ + kPage, inside_, PROT_READ | PROT_WRITE) != 0)
            std::abort();
        data_ = base_ + kPage + inside_ - padded;
    }
    Memory(Memory const&) = delete;
    Memory& operator=(Memory const&) = delete;
    ~Memory()
    {
        munmap(base_, inside_ + 2 * kPage);
    }

    // From now on any access faults.
    void forbid()
    {
        if (mprotect(base_, inside_ + 2 * kPage, PROT_NONE) != 0)
            std::abort();
    }
    // NaN in every type, and flags that are neither 0 nor 1.
    void poison()
    {
        std::memset(data_, 0xFF, bytes_);
    }
    template <typename T>
    T* as() const
    {
        return reinterpret_cast<T*>(data_);
    }
    size_t bytes() const
    {
        return bytes_;
    }

private:
    static constexpr size_t kPage = 4096;
    size_t bytes_;
    size_t inside_;
    char* base_;
    char* data_;
};

// The exit status of `body` in a process of its own, or minus the signal that ended it.
inline int status_of_child(std::function<void()> const& body)
{
    std::fflush(nullptr);
    pid_t const child = fork();
    if (child == 0)
    {
        if (std::freopen("/dev/null", "w", stderr) == nullptr)
            _exit(1);
        body();
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

#else
constexpr bool kOnGpu = true;

inline void set_thread_order(unsigned)
{
}
inline bool finished(cudaError_t error)
{
    return error == cudaSuccess && cudaDeviceSynchronize() == cudaSuccess;
}

// Managed memory, so that the host's reference reads what the kernels read. Overruns are
// compute-sanitizer's to find.
class Memory
{
public:
    explicit Memory(size_t bytes)
        : bytes_(bytes)
    {
        if (cudaMallocManaged(&data_, bytes + 16) != cudaSuccess)
            std::abort();
        std::memset(data_, 0, bytes);
    }
    Memory(Memory const&) = delete;
    Memory& operator=(Memory const&) = delete;
    ~Memory()
    {
        cudaFree(data_);
    }
    void forbid()
    {
        poison(); // the pages can't be taken away here: NaN shows in the result
    }
    void poison()
    {
        std::memset(data_, 0xFF, bytes_);
    }
    template <typename T>
    T* as() const
    {
        return static_cast<T*>(data_);
    }
    size_t bytes() const
    {
        return bytes_;
    }

private:
    size_t bytes_;
    void* data_ = nullptr;
};
#endif
} // namespace river::test
