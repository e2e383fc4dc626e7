// Times every kernel against the card's copy bandwidth. usage: roofline OUT.jsonl
//
// A measurement is a CUDA graph of many launches over copies of the weights that together exceed
// L2 several times; the median of its replays after a warm-up. Bytes are what the banks in use,
// the activations and the cache need once.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "bench.h"
#include "gemm.h"
#include "platform.cuh"

using namespace river;
using namespace river::bench;

namespace
{
constexpr size_t kPoolBytes = size_t{1200} << 20;  // holds the largest bank, 70B's gate_up
constexpr size_t kSpreadBytes = size_t{400} << 20; // copies of a bank to rotate over
constexpr int kGroupSize = 128;
constexpr int kWarmUps = 2;
constexpr int kReplays = 12;
constexpr int kLaunches = 40;

// fp16 values of about 0.03 .. 0.06 with both signs
__global__ void fill_halves(uint32_t* words, size_t count)
{
    size_t const stride = static_cast<size_t>(gridDim.x) * blockDim.x;
    for (size_t i = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
        i += stride)
        words[i] = (static_cast<uint32_t>(i) * 2654435761U & 0x83ff83ffU) | 0x28002800U;
}

double time_each(std::function<cudaError_t(int, cudaStream_t)> const& launch_one)
{
    return time_launches(kLaunches, launch_one, kWarmUps, kReplays);
}

struct Buffers
{
    char* backbone = allocate(kPoolBytes, fill_halves);
    char* river = allocate(kPoolBytes, fill_halves);
    char* small = allocate(size_t{256} << 20, fill_halves); // scales, zero points
    char* x = allocate(size_t{64} << 20, fill_halves);
    char* y = allocate(size_t{64} << 20, fill_halves);
    char* flags = allocate(4096, fill_halves);
};

struct Shape
{
    char const* model;
    char const* linear;
    int n, k;
};

constexpr Shape kShapes[] = {
    {"Llama-3.2-1B", "qkv", 3072, 2048},
    {"Llama-3.2-1B", "o", 2048, 2048},
    {"Llama-3.2-1B", "gate_up", 16384, 2048},
    {"Llama-3.2-1B", "down", 2048, 8192},
    {"Llama-3.1-8B", "qkv", 6144, 4096},
    {"Llama-3.1-8B", "o", 4096, 4096},
    {"Llama-3.1-8B", "gate_up", 28672, 4096},
    {"Llama-3.1-8B", "down", 4096, 14336},
    {"Llama-3.1-70B", "qkv", 10240, 8192},
    {"Llama-3.1-70B", "o", 8192, 8192},
    {"Llama-3.1-70B", "gate_up", 57344, 8192},
    {"Llama-3.1-70B", "down", 8192, 28672},
};

size_t rotated(size_t bytes, int i) // offset of copy i of a bank
{
    size_t const copies = std::max<size_t>(1, std::min(kSpreadBytes, kPoolBytes) / bytes);
    return (static_cast<size_t>(i) % copies) * ((bytes + 255) / 256 * 256)
        % (kPoolBytes - bytes + 1) / 256 * 256;
}

void time_linear(Buffers const& b, Shape const& s, int rows, std::string const& flags, FILE* out)
{
    size_t const elements = static_cast<size_t>(s.n) * s.k;
    size_t const groups = static_cast<size_t>(s.n) * (s.k / kGroupSize);
    std::vector<uint8_t> on_river(rows);
    for (int row = 0; row < rows; ++row)
        on_river[row] = flags == "river" || (flags == "mixed" && row % 2 == 0);
    REQUIRE(cudaMemcpy(b.flags, on_river.data(), rows, cudaMemcpyHostToDevice));
    LinearParams p;
    p.programmatic = true;
    p.rows = rows;
    p.n = s.n;
    p.k = s.k;
    p.x = b.x;
    p.y = b.y;
    p.use_river = b.flags;
    p.river.scales = b.small;
    p.river.zero_points = b.small + groups * 2;
    p.river.group_size = kGroupSize;
    double bytes = 2.0 * rows * (s.k + s.n);
    if (flags != "river")
        bytes += 2.0 * elements;
    if (flags != "backbone")
        bytes += elements / 2.0 + 3.0 * groups;
    double const us = time_each([&](int i, cudaStream_t stream)
    {
        p.weight = b.backbone + rotated(2 * elements, i);
        p.river.qweight = b.river + rotated(elements / 2, i);
        return launch_linear(p, stream);
    });
    std::fprintf(out,
        "{\"kernel\": \"linear\", \"model\": \"%s\", \"linear\": \"%s\", \"n\": %d, \"k\": %d, "
        "\"rows\": %d, \"flags\": \"%s\", \"us\": %.3f, \"gb_per_s\": %.1f}\n",
        s.model, s.linear, s.n, s.k, rows, flags.c_str(), us, bytes / us / 1000.0);
}

void time_cublas(Buffers const& b, Shape const& s, int rows, FILE* out)
{
    size_t const elements = static_cast<size_t>(s.n) * s.k;
    Gemm g;
    g.m = rows;
    g.n = s.n;
    g.k = s.k;
    g.x = b.x;
    g.y = b.y;
    g.y_stride = s.n;
    g.workspace = b.small;
    g.workspace_bytes = kGemmWorkspaceBytes;
    double const us = time_each([&](int i, cudaStream_t stream)
    {
        g.w = b.backbone + rotated(2 * elements, i);
        return gemm(g, stream);
    });
    double const bytes = 2.0 * rows * (s.k + s.n) + 2.0 * elements;
    std::fprintf(out,
        "{\"kernel\": \"cublas\", \"model\": \"%s\", \"linear\": \"%s\", \"n\": %d, \"k\": %d, "
        "\"rows\": %d, \"us\": %.3f, \"gb_per_s\": %.1f}\n",
        s.model, s.linear, s.n, s.k, rows, us, bytes / us / 1000.0);
}

void time_attention(Buffers const& b, int batch, int past, FILE* out)
{
    AttentionParams p; // Llama-3.1-8B
    p.programmatic = true;
    p.batch = batch;
    p.seq = 1;
    p.num_heads = 32;
    p.num_kv_heads = 8;
    p.head_dim = p.rotary_dim = 128;
    p.capacity = p.num_positions = past + 16;
    p.scale = 0.088F;
    p.q = p.k = p.v = b.x;
    p.q_stride = p.k_stride = p.v_stride = 48 * 128;
    std::vector<int32_t> const lengths(batch, past);
    REQUIRE(cudaMemcpy(b.flags, lengths.data(), 4 * batch, cudaMemcpyHostToDevice));
    p.past_lengths = reinterpret_cast<int32_t const*>(b.flags);
    p.rotary_cos = p.rotary_sin = reinterpret_cast<float const*>(b.small);
    p.out = b.y;
    p.workspace_bytes = attention_workspace_bytes(p);
    p.workspace = allocate(p.workspace_bytes + 16, fill_halves);
    REQUIRE(cudaMemset(p.workspace, 0, p.workspace_bytes));
    size_t const cache = 2UL * batch * p.num_kv_heads * p.capacity * p.head_dim;
    double const us = time_each([&](int i, cudaStream_t stream)
    {
        p.k_cache = b.backbone + rotated(cache, i);
        p.v_cache = b.river + rotated(cache, i);
        return launch_attention(p, stream);
    });
    REQUIRE(cudaFree(p.workspace));
    double const bytes = 4.0 * batch * p.num_kv_heads * past * p.head_dim;
    std::fprintf(out,
        "{\"kernel\": \"attention\", \"model\": \"Llama-3.1-8B\", \"batch\": %d, \"past\": %d, "
        "\"us\": %.3f, \"gb_per_s\": %.1f}\n",
        batch, past, us, bytes / us / 1000.0);
}

void time_gate(Buffers const& b, int rows, int scope, FILE* out)
{
    GateParams p;
    p.programmatic = true;
    p.batch = rows;
    p.seq = 1;
    p.hidden = 4096;
    p.layer = p.num_layers = 1;
    p.h_in = p.delta = p.residual = b.x;
    p.h_out = b.y;
    int32_t const scalars[2] = {0, scope};
    REQUIRE(cudaMemcpy(b.flags, scalars, sizeof(scalars), cudaMemcpyHostToDevice));
    p.tau = reinterpret_cast<float const*>(b.flags);
    p.scope = reinterpret_cast<int32_t const*>(b.flags) + 1;
    p.exited_out = b.flags + 256;
    p.exit_layer_out = reinterpret_cast<int32_t*>(b.flags + 512);
    p.use_river_next = b.flags + 1024;
    p.workspace = b.flags + 2048;
    p.workspace_bytes = 1024;
    REQUIRE(cudaMemset(p.workspace, 0, 1024));
    double const us = time_each([&](int, cudaStream_t s) { return launch_gate(p, s); });
    std::fprintf(out, "{\"kernel\": \"gate\", \"rows\": %d, \"scope\": %d, \"us\": %.3f}\n", rows,
        scope, us);
}
} // namespace

int main(int argc, char** argv)
{
    FILE* out = argc == 2 ? std::fopen(argv[1], "w") : nullptr;
    if (out == nullptr)
    {
        std::fprintf(stderr, "usage: roofline OUT.jsonl\n");
        return 2;
    }
    cudaDeviceProp device{};
    REQUIRE(cudaGetDeviceProperties(&device, 0));
    Buffers const b;
    double const us = time_each([&](int, cudaStream_t stream)
    { return cudaMemcpyAsync(b.backbone, b.river, kPoolBytes, cudaMemcpyDeviceToDevice, stream); });
    std::fprintf(out,
        "{\"kernel\": \"copy\", \"device\": \"%s\", \"us\": %.3f, \"gb_per_s\": %.1f}\n",
        device.name, us, 2.0 * kPoolBytes / us / 1000.0);
    bool const cublas = load_prefill_library() == cudaSuccess;
    for (Shape const& shape : kShapes)
        for (int rows : {1, 2, 4, 8})
        {
            for (char const* flags : {"backbone", "river", "mixed"})
                if (rows > 1 || std::string(flags) != "mixed")
                    time_linear(b, shape, rows, flags, out);
            if (cublas)
                time_cublas(b, shape, rows, out);
        }
    for (int batch : {1, 8})
        for (int past : {1024, 8192})
            time_attention(b, batch, past, out);
    for (int rows : {1, 8})
        for (int scope : {0, 2})
            time_gate(b, rows, scope, out);
    std::fclose(out);
    return 0;
}
