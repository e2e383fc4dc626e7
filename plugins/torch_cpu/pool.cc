#include "pool.h"

#include <ATen/Parallel.h>

#include "threads.h"

namespace river::torch_cpu
{
namespace
{

Threads& threads()
{
    static Threads* threads = new Threads; // its threads use it until the process ends
    return *threads;
}

} // namespace

Pool pool()
{
    size_t const wanted = static_cast<size_t>(at::get_num_threads());
    auto const run = [](void*, void (*work)(void*, size_t), size_t count, void* argument)
    {
        threads().run(work, count, argument, static_cast<size_t>(at::get_num_threads()));
    };
    return {run, nullptr, wanted};
}

} // namespace river::torch_cpu
