// The shim itself: it must report what a GPU would get wrong or hang on, or the other tests prove
// little. Each mistake runs in a process of its own.
#include "cluster.cuh"
#include "mma.cuh"
#include "testing.h"

using namespace river;
using namespace river::test;

namespace
{
constexpr int kReported = 86; // the exit status of shim::die
constexpr int kThreads = 64;

struct Args
{
    int* out;
    int mistake;
};

__global__ void reduce_kernel(Args const args)
{
    RIVER_SHARED(parts, int[2]);
    int const sum = warp_sum(static_cast<int>(threadIdx.x));
    if (threadIdx.x % kWarpSize == 0)
        parts[threadIdx.x / kWarpSize] = sum;
    if (args.mistake != 1)
        __syncthreads();
    args.out[threadIdx.x] = parts[0] + parts[1];
}

__global__ void stuck_kernel(Args const args)
{
    if (args.mistake == 2 && threadIdx.x % 2 == 0)
        warp_sum(1); // a part of the warp under a full mask
    else if (args.mistake == 3 && threadIdx.x == 0)
        __syncthreads(); // the others wait at another line
    if (args.mistake == 4 && threadIdx.x < kWarpSize)
        warp_sum(1);
    __syncthreads();
}

__global__ void misaligned_kernel(Args const args)
{
    args.out[0] = static_cast<int>(load16(args.out + 1).x);
}

// Every block of a cluster sends its number to all four.
__global__ void exchange_kernel(Args const args)
{
    RIVER_SHARED(received, uint2[4]);
    RIVER_SHARED(arrivals, Arrivals[1]);
    int const rank = blockIdx.x % 4;
    if (threadIdx.x == 0)
        expect(arrivals[0], args.mistake == 8 ? 24 : args.mistake == 9 ? 40 : 32);
    if (args.mistake != 6)
    {
        arrive_in_cluster();
        wait_in_cluster();
    }
    if (threadIdx.x < 4)
        send(&received[rank], make_uint2(rank + 1, 0), arrivals[0], static_cast<int>(threadIdx.x));
    if (args.mistake != 7) // then the first block ends while the others still send to it
        wait_for(arrivals[0]);
    args.out[blockIdx.x] = static_cast<int>(
        received[0].x + 10 * received[1].x + 100 * received[2].x + 1000 * received[3].x);
}

void correct_kernels_pass_in_every_order()
{
    Memory out(sizeof(int) * kThreads);
    for (unsigned order : {0U, 1U, 5U, 6U})
    {
        shim::thread_order() = order;
        shim::run(&reduce_kernel, dim3(2), kThreads, Args{out.as<int>(), 0});
        for (int i = 0; i < kThreads; ++i)
            check(out.as<int>()[i] == kThreads * (kThreads - 1) / 2, "block sum");
        shim::run(&stuck_kernel, dim3(1), kThreads, Args{out.as<int>(), 4});
        launch_clusters(
            &exchange_kernel, dim3(8, 2), kThreads, 4, Args{out.as<int>(), 0}, false, nullptr);
        for (int block = 0; block < 8; ++block)
            check(out.as<int>()[block] == 4321, "blocks of a cluster send to each other");
    }
    shim::thread_order() = 0;
}

void a_missing_barrier_changes_the_result()
{
    Memory out(sizeof(int) * kThreads);
    shim::run(&reduce_kernel, dim3(1), kThreads, Args{out.as<int>(), 1});
    check(out.as<int>()[0] != kThreads * (kThreads - 1) / 2, "a race must show");
}

void mistakes_end_the_process()
{
    auto const status = [](int mistake)
    {
        return status_of_child([=]
        {
            Memory out(sizeof(int) * kThreads);
            if (mistake >= 6)
                launch_clusters(&exchange_kernel, dim3(4), kThreads, 4,
                    Args{out.as<int>(), mistake}, false, nullptr);
            else if (mistake == 5)
                shim::run(&misaligned_kernel, dim3(1), 1, Args{out.as<int>(), 0});
            else
                shim::run(&stuck_kernel, dim3(1), kThreads, Args{out.as<int>(), mistake});
        });
    };
    check(status(2) == kReported, "a warp operation by half a warp");
    check(status(3) == kReported, "barriers at two lines");
    check(status(5) == kReported, "a misaligned 16-byte load");
    check(status(6) == kReported, "shared memory of a block that may not have started");
    check(status(7) == kReported, "shared memory of a block that has ended");
    check(status(8) == kReported, "more bytes than a block expects");
    check(status(9) == kReported, "bytes that nobody sends");
    check(status(4) == 0, "a warp operation by one of two warps is fine");
}

// c += a b from the layout that the PTX manual gives, for one element at a time.
struct MmaArgs
{
    uint16_t const* a; // [16, 16] fp16
    uint16_t const* b; // [16, 8]
    float* c;          // [16, 8]
};

__global__ void mma_kernel(MmaArgs const args)
{
    int const g = threadIdx.x / 4;
    int const t = threadIdx.x % 4;
    auto const pair_a = [&](int row, int column)
    {
        return args.a[row * 16 + column]
            | static_cast<uint32_t>(args.a[row * 16 + column + 1]) << 16;
    };
    auto const pair_b = [&](int row)
    {
        return args.b[row * 8 + g] | static_cast<uint32_t>(args.b[(row + 1) * 8 + g]) << 16;
    };
    uint32_t const a[4] = {
        pair_a(g, 2 * t), pair_a(g + 8, 2 * t), pair_a(g, 2 * t + 8), pair_a(g + 8, 2 * t + 8)};
    float c[4] = {1.F, 1.F, 1.F, 1.F};
    mma_16x8x16<__half>(c, a, pair_b(2 * t), pair_b(2 * t + 8));
    for (int i = 0; i < 4; ++i)
        args.c[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2] = c[i];
}

void the_tensor_core_step_is_a_matrix_product()
{
    Random random(3);
    Memory a(2 * 256), b(2 * 128), c(4 * 128);
    fill<__half>(a, 256, random, 1.0);
    fill<__half>(b, 128, random, 1.0);
    shim::run(&mma_kernel, dim3(1), 32, MmaArgs{a.as<uint16_t>(), b.as<uint16_t>(), c.as<float>()});
    for (int row = 0; row < 16; ++row)
        for (int column = 0; column < 8; ++column)
        {
            double sum = 1.0;
            for (int k = 0; k < 16; ++k)
                sum += get<__half>(a, row * 16 + k) * get<__half>(b, k * 8 + column);
            check(std::fabs(c.as<float>()[row * 8 + column] - sum) < 1e-4, "mma element");
        }
}
} // namespace

int main()
{
    correct_kernels_pass_in_every_order();
    a_missing_barrier_changes_the_result();
    mistakes_end_the_process();
    the_tensor_core_step_is_a_matrix_product();
    return report("shim");
}
