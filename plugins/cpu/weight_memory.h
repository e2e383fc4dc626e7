// An operator's weights in memory of its own, in large pages where the system has them.
//
// A mapped file has pages of 4 KiB, and a decode step reads every weight once: looking pages up is
// then a good part of the time. The file's own pages are cache that the system can take back.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace river
{

class WeightMemory
{
public:
    // Lists a weight; `pointer` must stay where it is until take() has changed it.
    template <typename T>
    void add(T const*& pointer, size_t count)
    {
        if (pointer == nullptr)
            return;
        parts_.push_back({reinterpret_cast<void const**>(&pointer), count * sizeof(T)});
    }

    // Copies what was listed, and points there.
    void take()
    {
        size_t size = 0;
        for (Part const& part : parts_)
            size += padded(part.bytes, kAlignment);
        memory_.reset(static_cast<char*>(std::aligned_alloc(kPage, padded(size, kPage))));
        if (memory_ == nullptr)
            throw std::bad_alloc();
#if defined(__linux__)
        madvise(memory_.get(), padded(size, kPage), MADV_HUGEPAGE); // a wish: it may fail
#endif
        char* at = memory_.get();
        for (Part const& part : parts_)
        {
            std::memcpy(at, *part.pointer, part.bytes);
            *part.pointer = at;
            at += padded(part.bytes, kAlignment);
        }
        parts_.clear();
    }

private:
    static constexpr size_t kPage = size_t{2} << 20;
    static constexpr size_t kAlignment = 64;
    struct Part
    {
        void const** pointer;
        size_t bytes;
    };
    struct Free
    {
        void operator()(char* memory) const
        {
            std::free(memory);
        }
    };

    static size_t padded(size_t size, size_t to)
    {
        return (size + to - 1) / to * to;
    }

    std::vector<Part> parts_;
    std::unique_ptr<char, Free> memory_;
};

} // namespace river
