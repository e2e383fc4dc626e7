// PhasedWork: every chunk runs once, a phase waits for the one before it, and threads may be late
// or missing; and a trace has each chunk once. ShareControl: the way that takes less time is in use
// nearly always, on a clock of ours.
#include "parallel.h"

#include <chrono>
#include <cstdio>
#include <thread>
#include <vector>

using namespace river;

namespace
{

int failures = 0;

constexpr size_t kValues = 64;

// Phase p writes row p + 1 from row p, mirrored: what other threads wrote a phase before.
class Mirrored : public PhasedWork
{
public:
    explicit Mirrored(std::vector<size_t> const& chunks)
        : chunks_(chunks)
        , rows_(chunks.size() + 1, std::vector<int>(kValues))
    {
        for (size_t count : chunks)
            add_phase(count);
    }

    void chunk(size_t phase, size_t index) noexcept override
    {
        size_t const each = kValues / chunks_[phase];
        for (size_t i = index * each; i < (index + 1) * each; ++i)
        {
            rows_[phase + 1][i] += rows_[phase][kValues - 1 - i] + 1;
        }
    }

    char const* name(size_t) const override
    {
        return "mirror";
    }
    int32_t layer(size_t phase) const override
    {
        return static_cast<int32_t>(phase);
    }
    size_t bytes(size_t, size_t index) const override
    {
        return index;
    }

    bool complete() const
    {
        std::vector<int> const wanted(kValues, static_cast<int>(chunks_.size()));
        return rows_.back() == wanted;
    }

private:
    std::vector<size_t> chunks_;
    std::vector<std::vector<int>> rows_;
};

// Every chunk is in the record of one thread, of each thread once; returns what is wrong.
char const* wrong_in(std::vector<TraceEvent> const& events, std::vector<size_t> const& chunks)
{
    std::vector<size_t> ran(chunks.size()), read(chunks.size());
    for (size_t i = 0; i < events.size(); ++i)
    {
        TraceEvent const& event = events[i];
        ran[event.layer] += event.chunks;
        read[event.layer] += event.bytes;
        if (event.start > event.worked || event.worked > event.ended)
            return "time runs backwards";
    }
    for (size_t p = 0; p < chunks.size(); ++p)
    {
        if (ran[p] != chunks[p] || read[p] != chunks[p] * (chunks[p] - 1) / 2)
            return "chunks are missing, or twice there";
    }
    return nullptr;
}

// Starts some of the shares on threads, late ones too, and leaves the rest to the caller.
struct Threads
{
    size_t started;
    bool late;

    static void run(void* self, void (*work)(void*, size_t), size_t count, void* argument)
    {
        auto const& threads = *static_cast<Threads*>(self);
        std::vector<std::thread> running;
        for (size_t i = 1; i < count && i <= threads.started; ++i)
        {
            running.emplace_back([=, &threads]
            {
                if (threads.late)
                    std::this_thread::sleep_for(std::chrono::milliseconds(2));
                work(argument, i);
            });
        }
        work(argument, 0);
        for (size_t i = threads.started + 1; i < count; ++i)
            work(argument, i);
        for (std::thread& thread : running)
            thread.join();
    }
};

// What part of the time goes to work alone. Pieces take `shared` or `alone` seconds; `held_up` of the
// former is waits.
double alone_part(ShareControl& control, double shared, double held_up, double alone, double until)
{
    double clock = 0, spent = 0;
    while (clock < until)
    {
        ShareControl::Way const way = control.way();
        bool const is_alone = way == ShareControl::kAlone;
        double const takes = is_alone ? alone : shared;
        clock += takes;
        spent += is_alone ? takes : 0;
        control.observe(way, 100, takes, is_alone ? 0 : held_up * takes);
    }
    return spent / clock;
}

void expect(char const* what, double part, double least, double most)
{
    if (part >= least && part <= most)
        return;
    std::printf("FAILED: %s: %.3f of the time alone\n", what, part);
    ++failures;
}

double g_idle = 1.0; // cores; of two
CoreTime fake_cores()
{
    static CoreTime time{0, 0, 2};
    time.total += 2;
    time.idle += g_idle;
    return time;
}

void test_shares()
{
    ShareControl control(fake_cores);
    expect("a quiet machine", alone_part(control, 0.0002, 0.01, 0.0004, 30), 0, 0);
    // Some seconds may pass before it is tried; then it stays.
    alone_part(control, 0.004, 0.8, 0.0006, 10);
    expect("a machine in use", alone_part(control, 0.004, 0.8, 0.0006, 30), 0.9, 1);
    g_idle = 0.0;
    expect("no core has time", alone_part(control, 0.0002, 0.01, 0.0004, 30), 1, 1);
    g_idle = 1.0;
    alone_part(control, 0.0002, 0.01, 0.0004, 5);
    expect("it is quiet again", alone_part(control, 0.0002, 0.01, 0.0004, 30), 0, 0);
    expect("waits, but sooner done", alone_part(control, 0.0002, 0.3, 0.0004, 30), 0, 0.05);
}

} // namespace

int main()
{
    test_shares();
    for (size_t count : {1, 2, 5})
    {
        for (size_t started : {0, 1, 4})
        {
            for (bool late : {false, true})
            {
                for (int repeat = 0; repeat < 20; ++repeat)
                {
                    Threads threads = {started, late};
                    std::vector<size_t> const chunks = {64, 1, 32, 2, 16};
                    Mirrored work(chunks);
                    std::vector<TraceEvent> events(chunks.size() * count);
                    if (repeat % 2 == 1)
                        g_trace.start(events.data(), events.size());
                    work.run({Threads::run, &threads, count}, repeat % 4 < 2);
                    if (repeat % 2 == 1)
                    {
                        events.resize(std::min(events.size(), g_trace.stop()));
                        if (char const* wrong = wrong_in(events, chunks))
                        {
                            std::printf("FAILED: trace: %s\n", wrong);
                            ++failures;
                        }
                    }
                    if (!work.complete())
                    {
                        std::printf(
                            "FAILED: %zu shares, %zu threads, late %d\n", count, started, late);
                        ++failures;
                    }
                }
            }
        }
    }
    return failures != 0;
}
