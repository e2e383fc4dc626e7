// Times every variant of attention, and the gate. usage: attention_variants OUT.jsonl [once]
// once: each shape's chosen variant is launched twice, for a profiler.
//
// A measurement is a CUDA graph of many programmatic launches over copies of the cache that
// together exceed L2; the median of its replays after a warm-up. The floor is the cache's bytes at
// 3 TB/s, what a copy reaches on an H100.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "bench.h"
#include "platform.cuh"

#include "launch.h"

using namespace river;
using namespace river::bench;

namespace
{
constexpr size_t kPoolBytes = size_t{1} << 30; // of keys, and of values
constexpr int kWarmUps = 2;
constexpr int kReplays = 8;
constexpr int kLaunches = 40;
constexpr double kBytesPerMicrosecond = 3.0e6;

__global__ void fill_bfloats(uint32_t* words, size_t count)
{
    size_t const stride = static_cast<size_t>(gridDim.x) * blockDim.x;
    for (size_t i = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
        i += stride)
    {
        uint32_t const mixed =
            static_cast<uint32_t>(i) * 2654435761U ^ static_cast<uint32_t>(i >> 7);
        words[i] = (mixed & 0x807f807fU) | 0x3f003f00U; // bf16 of about 0.5 .. 1, both signs
    }
}

bool& once()
{
    static bool value = false;
    return value;
}

double time_each(std::function<cudaError_t(int, cudaStream_t)> const& launch_one)
{
    if (once())
    {
        REQUIRE(launch_one(0, nullptr));
        REQUIRE(launch_one(1, nullptr));
        REQUIRE(cudaDeviceSynchronize());
        return 0.0;
    }
    return time_launches(kLaunches, launch_one, kWarmUps, kReplays);
}

struct Shape
{
    char const* model;
    int heads, kv_heads, head_dim, batch, seq, past;
};

constexpr Shape kShapes[] = {
    {"8B", 32, 8, 128, 1, 1, 500},
    {"8B", 32, 8, 128, 1, 1, 512},
    {"8B", 32, 8, 128, 1, 1, 1000},
    {"8B", 32, 8, 128, 1, 1, 1024},
    {"8B", 32, 8, 128, 1, 1, 8192},
    {"8B", 32, 8, 128, 4, 1, 1024},
    {"8B", 32, 8, 128, 8, 1, 1024},
    {"8B", 32, 8, 128, 8, 1, 8192},
    {"8B", 32, 8, 128, 1, 2, 1024},
    {"8B", 32, 8, 128, 1, 4, 1024},
    {"8B", 32, 8, 128, 1, 8, 1024},
    {"8B", 32, 8, 128, 8, 8, 8192},
    {"1B", 32, 8, 64, 1, 1, 512},
    {"1B", 32, 8, 64, 1, 1, 1024},
    {"1B", 32, 8, 64, 8, 1, 8192},
    {"9B", 16, 8, 256, 1, 1, 1024},
    {"9B", 16, 8, 256, 8, 1, 8192},
};

struct Variant
{
    Merge merge;
    int splits;
    int queries;
    int warps;
};

struct Buffers
{
    char* k_cache = allocate(kPoolBytes, fill_bfloats);
    char* v_cache = allocate(kPoolBytes, fill_bfloats);
    char* qkv = allocate(size_t{16} << 20, fill_bfloats);
    char* out = allocate(size_t{16} << 20, fill_bfloats);
    char* tables = allocate(size_t{16} << 20, fill_bfloats);
    char* flags = allocate(4096, fill_bfloats);
    char* workspace = allocate(size_t{64} << 20, fill_bfloats);
};

// Microseconds of one launch, or 0 where the variant does not take the shape.
double time_attention(Buffers const& b, Shape const& s, Variant const& variant)
{
    AttentionParams p;
    p.type = DataType::kBfloat16;
    p.programmatic = true;
    p.merge = variant.merge;
    p.splits = variant.splits;
    p.queries = variant.queries;
    p.warps = variant.warps;
    p.batch = s.batch;
    p.seq = s.seq;
    p.num_heads = s.heads;
    p.num_kv_heads = s.kv_heads;
    p.head_dim = p.rotary_dim = s.head_dim;
    p.capacity = p.num_positions = s.past + 16;
    p.scale = 0.01F;
    p.q_stride = p.k_stride = p.v_stride = (s.heads + 2 * s.kv_heads) * s.head_dim;
    p.q = b.qkv;
    p.k = b.qkv + 2 * s.heads * s.head_dim;
    p.v = b.qkv + 2 * (s.heads + s.kv_heads) * s.head_dim;
    std::vector<int32_t> const lengths(s.batch, s.past);
    REQUIRE(cudaMemcpy(b.flags, lengths.data(), 4 * s.batch, cudaMemcpyHostToDevice));
    p.past_lengths = reinterpret_cast<int32_t const*>(b.flags);
    p.rotary_cos = p.rotary_sin = reinterpret_cast<float const*>(b.tables);
    p.out = b.out;
    p.k_cache = b.k_cache;
    p.v_cache = b.v_cache;
    p.workspace = b.workspace;
    p.workspace_bytes = size_t{64} << 20;
    if (explain_attention(p) != nullptr)
        return 0.0;
    REQUIRE(cudaMemset(p.workspace, 0, attention_workspace_bytes(p)));
    size_t const cache = 2UL * s.batch * s.kv_heads * p.capacity * s.head_dim;
    size_t const copies = std::min<size_t>(kLaunches, kPoolBytes / cache);
    return time_each([&](int i, cudaStream_t stream)
    {
        p.k_cache = b.k_cache + static_cast<size_t>(i) % copies * cache;
        p.v_cache = b.v_cache + static_cast<size_t>(i) % copies * cache;
        return launch_attention(p, stream);
    });
}

double time_gate(Buffers const& b, int rows, int hidden)
{
    GateParams p;
    p.type = DataType::kBfloat16;
    p.programmatic = true;
    p.batch = rows;
    p.seq = 1;
    p.hidden = hidden;
    p.layer = p.num_layers = 1;
    p.h_in = b.qkv;
    p.delta = b.qkv + (1 << 20);
    int32_t const scalars[2] = {0, 0};
    REQUIRE(cudaMemcpy(b.flags, scalars, sizeof(scalars), cudaMemcpyHostToDevice));
    p.tau = reinterpret_cast<float const*>(b.flags);
    p.exited_out = b.flags + 256;
    p.exit_layer_out = reinterpret_cast<int32_t*>(b.flags + 512);
    p.use_river_next = b.flags + 1024;
    return time_each([&](int, cudaStream_t s) { return launch_gate(p, s); });
}
} // namespace

int main(int argc, char** argv)
{
    FILE* out = argc >= 2 ? std::fopen(argv[1], "w") : nullptr;
    if (out == nullptr)
    {
        std::fprintf(stderr, "usage: attention_variants OUT.jsonl\n");
        return 2;
    }
    once() = argc == 3 && std::string(argv[2]) == "once";
    Buffers const b;
    std::printf("attention, us: chosen, then (16 queries a block) merge (c counters, C cluster), "
                "splits / warps\n");
    for (Shape const& s : kShapes)
    {
        double const bytes = 4.0 * s.batch * s.kv_heads * s.past * s.head_dim;
        double const chosen = time_attention(b, s, {Merge::kChosen, 0, 0, 0});
        std::printf("%s b%d seq%d past%d: floor %.1f, chosen %.1f;", s.model, s.batch, s.seq,
            s.past, bytes / kBytesPerMicrosecond, chosen);
        for (int queries : {8, 16})
            for (int warps : {8, 4})
                for (Merge merge : {Merge::kCluster, Merge::kCounters})
                    for (int splits : {1, 2, 4, 8, 16, 32})
                    {
                        Variant const variant{merge, splits, queries, warps};
                        bool const fits = splits * s.batch >= 4 && splits * s.batch <= 64;
                        if (once() || !fits || (queries == 16 && s.heads / s.kv_heads * s.seq <= 8))
                            continue;
                        double const us = time_attention(b, s, variant);
                        if (us == 0.0)
                            continue;
                        std::fprintf(out,
                            "{\"model\": \"%s\", \"batch\": %d, \"seq\": %d, \"past\": %d, "
                            "\"merge\": %d, \"splits\": %d, \"queries\": %d, \"warps\": %d, "
                            "\"us\": "
                            "%.3f, \"gb_per_s\": %.0f}\n",
                            s.model, s.batch, s.seq, s.past, static_cast<int>(merge), splits,
                            queries, warps, us, bytes / us / 1000.0);
                        std::printf(" %s%c%d/%d %.1f", queries == 8 ? "" : "q16",
                            merge == Merge::kCluster ? 'C' : 'c', splits, warps, us);
                    }
        std::printf("\n");
        std::fflush(stdout);
    }
    for (int hidden : {2048, 4096})
        for (int rows : {1, 8})
            std::printf("gate %d rows %d: %.2f us\n", hidden, rows, time_gate(b, rows, hidden));
    std::fclose(out);
    return 0;
}
