// A record of which thread ran which phase when, of how many bytes. One atomic load a phase while
// nobody records.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>

namespace river
{

// One thread's part of a phase. Read by river_trt/backends/onnxruntime/tracing.py: same order there.
struct TraceEvent
{
    char const* name;
    int64_t start, worked, ended; // ns: until `worked` it ran chunks, until `ended` it waited
    int64_t bytes;                // weights and cache that its chunks read
    int32_t layer;                // from 1; 0: of no layer
    int32_t thread;               // a number of its own in this process
    int32_t chunks;
};

class Trace
{
public:
    // Events go to `events`, as long as there is room.
    void start(TraceEvent* events, size_t room)
    {
        events_ = events;
        room_ = room;
        count_ = 0;
        on_.store(true, std::memory_order_release);
    }

    // How many there were, those without room among them. Nothing may run meanwhile.
    size_t stop()
    {
        on_.store(false, std::memory_order_release);
        return count_;
    }

    bool on() const
    {
        return on_.load(std::memory_order_acquire);
    }

    void add(TraceEvent event)
    {
        static std::atomic<int32_t> threads{0};
        static thread_local int32_t const thread = threads++;
        size_t const place = count_.fetch_add(1, std::memory_order_relaxed);
        if (place >= room_)
            return;
        event.thread = thread;
        events_[place] = event;
    }

    // In ns, on ONNX Runtime's own clock, so that both timelines fit together.
    static int64_t now()
    {
        using namespace std::chrono;
        return duration_cast<nanoseconds>(high_resolution_clock::now().time_since_epoch()).count();
    }

private:
    std::atomic<bool> on_{false};
    std::atomic<size_t> count_{0};
    TraceEvent* events_ = nullptr;
    size_t room_ = 0;
};

inline Trace g_trace;

} // namespace river
