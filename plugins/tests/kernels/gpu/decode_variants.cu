// Checks every variant of the decode kernel against doubles and times it. usage: decode_variants OUT
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <string>

#include "decode_variants.h"

using namespace river;
using namespace river::variants;

#define REQUIRE(call)                                                                              \
    do                                                                                             \
    {                                                                                              \
        cudaError_t const error_ = (call);                                                         \
        if (error_ != cudaSuccess)                                                                 \
        {                                                                                          \
            std::fprintf(stderr, "%s:%d %s: %s\n", __FILE__, __LINE__, #call,                      \
                cudaGetErrorString(error_));                                                       \
            std::exit(1);                                                                          \
        }                                                                                          \
    } while (false)

namespace
{
constexpr size_t kPool = size_t{1} << 30;
int sms = 0;
double copy_gb = 0;

__global__ void fill_words(uint32_t* p, size_t count, uint32_t mask, uint32_t base, uint32_t seed)
{
    for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < count;
         i += size_t(gridDim.x) * blockDim.x)
    {
        uint32_t h = static_cast<uint32_t>(i) * 2654435761U + seed;
        h ^= h >> 15;
        h *= 2246822519U;
        h ^= h >> 13;
        p[i] = (h & mask) | base;
    }
}
// A packed bank of random codes: fp16 scale about 2^-7, zero point 7.5 .. 8 in the scale parts.
__global__ void fill_bank(uint32_t* p, PackedShape s)
{
    int64_t const tile_words = s.tile_bytes() / 4, words = s.bytes() / 4;
    for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < words;
         i += int64_t(gridDim.x) * blockDim.x)
    {
        uint32_t h = static_cast<uint32_t>(i) * 2654435761U + 12345U;
        h ^= h >> 15;
        h *= 2246822519U;
        h ^= h >> 13;
        bool const scale = i % tile_words % (s.panel_bytes() / 4) < s.scale_bytes() / 4;
        p[i] = scale ? (h & 0x007f00ffU) | 0x47802000U : h;
    }
}

double time_graph(int launches, std::function<cudaError_t(int, cudaStream_t)> const& one)
{
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    REQUIRE(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < launches; ++i)
        REQUIRE(one(i, stream));
    REQUIRE(cudaStreamEndCapture(stream, &graph));
    REQUIRE(cudaGraphInstantiate(&exec, graph, 0));
    cudaEvent_t begin, end;
    REQUIRE(cudaEventCreate(&begin));
    REQUIRE(cudaEventCreate(&end));
    std::vector<float> times;
    for (int i = 0; i < 7; ++i)
    {
        REQUIRE(cudaEventRecord(begin, stream));
        REQUIRE(cudaGraphLaunch(exec, stream));
        REQUIRE(cudaEventRecord(end, stream));
        REQUIRE(cudaStreamSynchronize(stream));
        float ms;
        REQUIRE(cudaEventElapsedTime(&ms, begin, end));
        if (i > 0)
            times.push_back(ms);
    }
    std::sort(times.begin(), times.end());
    REQUIRE(cudaEventDestroy(begin));
    REQUIRE(cudaEventDestroy(end));
    REQUIRE(cudaGraphExecDestroy(exec));
    REQUIRE(cudaGraphDestroy(graph));
    REQUIRE(cudaStreamDestroy(stream));
    return 1000.0 * times[times.size() / 2] / launches;
}

struct Shape
{
    char const* name;
    int n, k;
    bool norm, silu;
};
Shape const kShapes[] = {{"1B qkv", 3072, 2048, true, false}, {"1B o", 2048, 2048, false, false},
    {"1B gate_up", 16384, 2048, true, true}, {"1B down", 2048, 8192, false, false},
    {"8B qkv", 6144, 4096, true, false}, {"8B o", 4096, 4096, false, false},
    {"8B gate_up", 28672, 4096, true, true}, {"8B down", 4096, 14336, false, false},
    {"70B gate_up", 57344, 8192, true, true}, {"70B down", 8192, 28672, false, false}};

size_t shared_bytes(Instance const& v, DecodeParams const& d)
{
    int const warps = v.threads / 32, chunks = (d.p.k + 63) / 64;
    int const tiles = d.units_per_block * (d.p.silu_mul ? 2 : 1);
    return size_t(warps) * v.depth * kRing + size_t(v.rows) * d.x_stride + 64
        + size_t(v.rows) * chunks * 8 + size_t(tiles + warps) * 16 * v.rows * 4;
}

bool prepare(Instance const& v, DecodeParams& d, dim3& grid)
{
    int const k64 = (d.p.k + 63) / 64 * 64;
    d.x_stride = v.int8 ? (k64 + 127) / 128 * 128 + 64 : 2 * k64 + 16;
    d.panels = (k64 / 64 + 7) / 8;
    d.units = (d.p.silu_mul ? d.p.n / 2 : d.p.n) / 16;
    int const blocks = sms * v.blocks;
    d.units_per_block = (d.units + blocks - 1) / blocks;
    grid = dim3((d.units + d.units_per_block - 1) / d.units_per_block);
    return shared_bytes(v, d) <= (size_t{227} << 10) / v.blocks - 1024;
}

cudaError_t start(Instance const& v, DecodeParams const& d, dim3 grid, cudaStream_t stream)
{
    return launch(v.kernel, grid, v.threads, d, true, stream, shared_bytes(v, d));
}

float half_at(std::vector<uint32_t> const& w, size_t i, int part)
{
    uint16_t const h = static_cast<uint16_t>(w[i] >> (16 * part));
    return __half2float(bits<__half>(h));
}

struct Buffers
{
    char *bank, *x, *y, *norm, *residual;
};

void check(Instance const& v, DecodeParams d, dim3 grid, Buffers const& b, char const* name)
{
    LinearParams const& p = d.p;
    PackedShape const s{p.n, p.k, p.river.group_size};
    int const width = p.silu_mul ? p.n / 2 : p.n;
    REQUIRE(cudaMemset(b.y, 0xff, size_t(p.rows) * width * 2));
    REQUIRE(start(v, d, grid, nullptr));
    REQUIRE(cudaDeviceSynchronize());
    std::vector<__nv_bfloat16> x(size_t(p.rows) * p.k), y(size_t(p.rows) * width), norm(p.k),
        residual(y.size());
    REQUIRE(cudaMemcpy(x.data(), b.x, x.size() * 2, cudaMemcpyDeviceToHost));
    REQUIRE(cudaMemcpy(y.data(), b.y, y.size() * 2, cudaMemcpyDeviceToHost));
    REQUIRE(cudaMemcpy(norm.data(), b.norm, norm.size() * 2, cudaMemcpyDeviceToHost));
    REQUIRE(cudaMemcpy(residual.data(), b.residual, residual.size() * 2, cudaMemcpyDeviceToHost));
    size_t unwritten = 0;
    for (auto value : y)
        unwritten += std::isnan(__bfloat162float(value));
    double error = 0, total = 0;
    std::vector<uint32_t> words(s.tile_bytes() / 4), up(words.size());
    int const tiles = width / 16;
    auto const product = [&](std::vector<uint32_t> const& w, int row, int o) {
        double sum = 0, mean = 0;
        if (p.norm_weight != nullptr)
            for (int k = 0; k < p.k; ++k)
                mean += std::pow(double(__bfloat162float(x[size_t(row) * p.k + k])), 2) / p.k;
        for (int k = 0; k < p.k; ++k)
        {
            int const panel = k / 512, chunk = k % 512 / 64, t = k % 64 / 16, sw = k % 16 / 4, in = k % 4;
            size_t const at = size_t(panel) * s.panel_bytes() / 4;
            int const lane = o % 8 * 4 + t;
            static int const order[4] = {0, 4, 2, 6};
            int const nibble = order[in] + o / 8;
            uint32_t const word = w[at + s.scale_bytes() / 4 + chunk * 128 + lane * 4 + sw];
            // codes 0 1 2 3 of output g are nibbles 0 4 2 6
            int const code = word >> (4 * nibble) & 15;
            int const scale_lane = o % 8 * 4 + chunk / 2;
            size_t const sz = at + (s.group_size == 64 ? scale_lane * 4 + o / 8 * 2 + chunk % 2 : scale_lane * 2 + o / 8);
            double value = __bfloat162float(x[size_t(row) * p.k + k]);
            if (p.norm_weight != nullptr)
                value *= __bfloat162float(norm[k]) / std::sqrt(mean + p.norm_eps);
            sum += value * (code - double(half_at(w, sz, 1))) * half_at(w, sz, 0);
        }
        return sum;
    };
    for (int i = 0; i < 3; ++i)
    {
        int const tile = (tiles - 1) * i / 2;
        REQUIRE(cudaMemcpy(words.data(), static_cast<char const*>(d.packed) + tile * s.tile_bytes(), s.tile_bytes(), cudaMemcpyDeviceToHost));
        if (p.silu_mul)
            REQUIRE(cudaMemcpy(up.data(), static_cast<char const*>(d.packed) + (tile + tiles) * s.tile_bytes(), s.tile_bytes(), cudaMemcpyDeviceToHost));
        for (int row = 0; row < p.rows; ++row)
            for (int o = 0; o < 16; o += 5)
            {
                double value = product(words, row, o);
                size_t const at = size_t(row) * width + tile * 16 + o;
                if (p.silu_mul)
                    value = value / (1 + std::exp(-value)) * product(up, row, o);
                else if (p.residual != nullptr)
                    value += __bfloat162float(residual[at]);
                double const got = __bfloat162float(y[at]);
                error += (got - value) * (got - value);
                total += value * value;
            }
    }
    double const relative = std::sqrt(error / total);
    static std::map<std::string, double> worst;
    bool const wrong = !(relative < (v.int8 ? 3e-2 : 1.2e-2)) || unwritten > 0;
    if (wrong)
        std::printf("WRONG %s g%d rows %d int8 %d depth %d threads %d: error %.2e, %zu unwritten\n", name,
            p.river.group_size, p.rows, v.int8, v.depth, v.threads, relative, unwritten);
    else if (v.depth == 12 && v.threads == 512)
        std::printf("ok %s g%d rows %d int8 %d: error %.2e\n", name, p.river.group_size, p.rows, v.int8, relative);
}
} // namespace

int main(int argc, char** argv)
{
    FILE* out = argc > 1 ? std::fopen(argv[1], "w") : stdout;
    REQUIRE(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, 0));
    Buffers b;
    char* copy;
    REQUIRE(cudaMalloc(&b.bank, kPool));
    REQUIRE(cudaMalloc(&copy, kPool));
    for (char** p : {&b.x, &b.y, &b.norm, &b.residual})
        REQUIRE(cudaMalloc(p, 4 << 20));
    fill_words<<<64, 256>>>(reinterpret_cast<uint32_t*>(b.x), 1 << 20, 0x807f807fU, 0x3f003f00U, 99U);
    fill_words<<<64, 256>>>(reinterpret_cast<uint32_t*>(b.norm), 1 << 20, 0x007f007fU, 0x3f003f00U, 7U);
    fill_words<<<64, 256>>>(reinterpret_cast<uint32_t*>(b.residual), 1 << 20, 0x807f807fU, 0x3f003f00U, 5U);
    double const us = time_graph(4, [&](int, cudaStream_t s) { return cudaMemcpyAsync(copy, b.bank, kPool, cudaMemcpyDeviceToDevice, s); });
    copy_gb = 2.0 * kPool / us / 1000;
    std::printf("copy %.0f GB/s, %d SMs\n", copy_gb, sms);
    REQUIRE(cudaFree(copy));
    std::map<int, std::vector<Instance>> instances;
    for (auto const& part : {part_1_0(), part_1_1(), part_2_0(), part_2_1(), part_4_0(), part_4_1(), part_8_0(), part_8_1()})
        for (Instance const& v : part)
        {
            cudaFuncAttributes at;
            REQUIRE(cudaFuncGetAttributes(&at, v.kernel));
            if (at.localSizeBytes > 0 || v.depth == 12)
                std::printf("rows %d int8 %d depth %d threads %d blocks %d: %d registers, %zu local\n", v.rows, v.int8, v.depth, v.threads, v.blocks, at.numRegs, at.localSizeBytes);
            instances[v.rows].push_back(v);
        }
    for (Shape const& s : kShapes)
        for (int group : {64, 128})
        {
            PackedShape const packed{s.n, s.k, group};
            size_t const bytes = packed.bytes();
            int const copies = std::max<int>(1, std::min<size_t>(kPool, size_t{400} << 20) / bytes);
            for (int i = 0; i < copies; ++i)
                fill_bank<<<1024, 256>>>(reinterpret_cast<uint32_t*>(b.bank + i * ((bytes + 255) / 256 * 256)), packed);
            REQUIRE(cudaDeviceSynchronize());
            for (int rows : {1, 2, 4, 8})
            {
                if (s.n * int64_t(s.k) > (200 << 20) && rows > 1 && rows < 8)
                    continue;
                double best[2] = {1e9, 1e9};
                std::string name[2];
                for (Instance const& v : instances[rows])
                {
                    DecodeParams d{};
                    d.p.type = DataType::kBfloat16;
                    d.p.banks = Banks::kRiver;
                    d.p.rows = rows;
                    d.p.n = s.n;
                    d.p.k = s.k;
                    d.p.x = b.x;
                    d.p.y = b.y;
                    d.p.river.group_size = group;
                    d.p.norm_weight = s.norm ? b.norm : nullptr;
                    d.p.norm_eps = 1e-5F;
                    d.p.silu_mul = s.silu;
                    d.p.residual = s.silu || s.norm ? nullptr : b.residual;
                    d.packed = b.bank;
                    d.early = true;
                    dim3 grid;
                    if (!prepare(v, d, grid))
                        continue;
                    if (s.n * int64_t(s.k) < (30 << 20) || v.depth == 12)
                        check(v, d, grid, b, s.name);
                    for (bool early : {true, false})
                    {
                        if (!early && (v.depth != 12 || rows > 1))
                            continue;
                        d.early = early;
                        int const launches = bytes > (100 << 20) ? 10 : 30;
                        double const t = time_graph(launches, [&](int i, cudaStream_t stream) {
                            d.packed = b.bank + (i % copies) * ((bytes + 255) / 256 * 256);
                            return start(v, d, grid, stream);
                        });
                        double const moved = double(bytes) + 2.0 * rows * (s.n + s.k);
                        std::fprintf(out, "{\"shape\": \"%s\", \"group\": %d, \"rows\": %d, \"int8\": %d, \"depth\": %d, \"threads\": %d, \"blocks\": %d, \"early\": %d, \"us\": %.3f, \"percent\": %.1f}\n",
                            s.name, group, rows, v.int8, v.depth, v.threads, v.blocks, early, t, 100 * moved / t / 1000 / copy_gb);
                        if (t < best[v.int8])
                        {
                            best[v.int8] = t;
                            char text[100];
                            std::snprintf(text, sizeof text, "%.2f us %.0f%% (d%d t%d b%d%s)", t, 100 * moved / t / 1000 / copy_gb, v.depth, v.threads, v.blocks, early ? "" : " late");
                            name[v.int8] = text;
                        }
                    }
                }
                std::printf("%-11s g%-3d rows %d: bf16 %s | int8 %s\n", s.name, group, rows, name[0].c_str(), name[1].c_str());
            }
        }
    std::fclose(out);
    return 0;
}
