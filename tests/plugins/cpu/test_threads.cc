// The torch operators' threads: every share runs once, and is done when run() returns, with threads
// asleep, awake and late, and with several callers at a time. Run under the thread sanitizer.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "threads.h"

namespace
{

struct Job
{
    std::vector<int> runs; // of each share: not atomic, so a race shows
};

void share(void* argument, size_t index)
{
    ++static_cast<Job*>(argument)->runs[index];
}

void check(river::torch_cpu::Threads& threads, size_t count, size_t wanted)
{
    Job job{std::vector<int>(count)};
    threads.run(share, count, &job, wanted);
    for (size_t i = 0; i < count; ++i)
    {
        if (job.runs[i] != 1)
        {
            std::printf("share %zu of %zu ran %d times\n", i, count, job.runs[i]);
            std::exit(1);
        }
    }
}

} // namespace

int main()
{
    auto& threads = *new river::torch_cpu::Threads;
    for (size_t wanted : {1, 2, 4})
    {
        for (size_t count : {0, 1, 2, 3, 17})
        {
            for (int i = 0; i < 200; ++i)
                check(threads, count, wanted);
        }
        // Long enough for the threads to fall asleep.
        for (int i = 0; i < 20; ++i)
        {
            std::this_thread::sleep_for(std::chrono::milliseconds(2));
            check(threads, 4, wanted);
        }
    }
    std::vector<std::thread> callers;
    for (int c = 0; c < 3; ++c)
    {
        callers.emplace_back([&threads]
        {
            for (int i = 0; i < 300; ++i)
                check(threads, 5, 3);
        });
    }
    for (std::thread& caller : callers)
        caller.join();
    std::_Exit(0); // the threads never end
}
