// Times every variant of the packed bank's kernel. usage: decode_variants OUT.jsonl [SECONDS]
//
// A measurement is a CUDA graph of launches, each a programmatic dependent of the one before, over
// copies of the weights that together exceed L2 several times. Prints the best variant of each shape.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "bench.h"
#include "launch.h"
#include "packed.h"
#include "platform.cuh"

using namespace river;
using namespace river::bench;

namespace
{
constexpr size_t kPoolBytes = size_t{1200} << 20;
constexpr int kCopies = 8; // of a graph: one alone is mostly its start
constexpr size_t kSpreadBytes = size_t{400} << 20;

struct Shape
{
    char const* model;
    char const* linear;
    int n, k;
    bool norm, silu;
};
constexpr Shape kShapes[] = {
    {"8B", "qkv", 6144, 4096, true, false},
    {"8B", "o", 4096, 4096, false, false},
    {"8B", "gate_up", 28672, 4096, true, true},
    {"8B", "down", 4096, 14336, false, false},
    {"1B", "qkv", 3072, 2048, true, false},
    {"1B", "o", 2048, 2048, false, false},
    {"1B", "gate_up", 16384, 2048, true, true},
    {"1B", "down", 2048, 8192, false, false},
    {"8B", "head", 128256, 4096, true, false},
    {"70B", "qkv", 10240, 8192, true, false},
    {"70B", "o", 8192, 8192, false, false},
    {"70B", "gate_up", 57344, 8192, true, true},
    {"70B", "down", 8192, 28672, false, false},
};

struct Pools
{
    char* backbone = allocate(kPoolBytes);
    char* river = allocate(kPoolBytes);
    char* x = allocate(size_t{16} << 20);
    char* y = allocate(size_t{16} << 20);
    char* flags = allocate(4096);
    char* sums = allocate(size_t{1} << 20);
};

size_t offset_of(size_t bytes, int i)
{
    size_t const padded = (bytes + 255) / 256 * 256;
    size_t const copies = std::max<size_t>(1, std::min(kSpreadBytes, kPoolBytes) / padded);
    return static_cast<size_t>(i) % copies * padded;
}

class Bench
{
public:
    Bench(FILE* out, double seconds)
        : out_(out)
        , seconds_(seconds)
        , start_(std::chrono::steady_clock::now())
    {
        double us = 1e9;
        for (int i = 0; i < 6; ++i)
            us = std::min(us,
                time_launches(kCopies, [&](int, cudaStream_t stream)
            {
                return cudaMemcpyAsync(pools_.backbone, pools_.river, size_t{1} << 30,
                    cudaMemcpyDeviceToDevice, stream);
            }));
        copy_ = 2.0 * (size_t{1} << 30) / us / 1000.0;
        std::printf("copy %.0f GB/s\n", copy_);
        std::fprintf(out_, "{\"kernel\": \"copy\", \"gb_per_s\": %.1f}\n", copy_);
    }

    bool has_time() const
    {
        std::chrono::duration<double> const gone = std::chrono::steady_clock::now() - start_;
        return gone.count() < seconds_;
    }

    // bank: river, backbone (by flags), mixed, plain (the backbone's own kernel)
    void measure(Shape const& s, int group, int rows, std::string const& bank, bool int8)
    {
        size_t const weights = 2UL * s.n * s.k;
        if (weights > kPoolBytes && bank != "river")
            return;
        std::vector<uint8_t> flags(rows);
        for (int row = 0; row < rows; ++row)
            flags[row] = bank == "river" || (bank == "mixed" && row % 2 == 0);
        REQUIRE(cudaMemcpy(pools_.flags, flags.data(), rows, cudaMemcpyHostToDevice));
        PackedShape const packed{s.n, s.k, group};
        LinearParams p;
        p.type = DataType::kBfloat16;
        p.banks = bank == "plain" ? Banks::kBackbone : Banks::kByFlag;
        p.programmatic = true;
        p.rows = rows;
        p.n = s.n;
        p.k = s.k;
        p.x = pools_.x;
        p.y = pools_.y;
        p.use_river = pools_.flags;
        p.flags_early = std::string(s.linear) != "qkv";
        p.weight = pools_.backbone;
        p.river.group_size = group;
        p.river.packed = pools_.river;
        p.river.int8_activations = int8;
        p.norm_weight = s.norm ? pools_.x + (size_t{8} << 20) : nullptr;
        p.norm_eps = 1e-5F;
        p.silu_mul = s.silu;
        p.residual = s.norm ? nullptr : pools_.y + (size_t{8} << 20);
        double bytes = 2.0 * rows * (s.n + s.k);
        if (bank != "river")
            bytes += static_cast<double>(weights);
        if (bank == "river" || bank == "mixed")
            bytes += static_cast<double>(packed.bytes());
        int const launches = bytes > 1e8 ? 10 : 30;
        double best = 1e9;
        std::string name;
        int const variants = bank == "plain" ? 0 : linear_variants();
        for (int variant = bank == "plain" ? -1 : 0; variant < variants; ++variant)
        {
            p.variant = variant;
            if (variant >= 0 && !linear_variant_fits(p, variant))
                continue;
            double const us = time_launches(launches, [&](int i, cudaStream_t stream)
            {
                p.weight = pools_.backbone + offset_of(weights, i);
                p.river.packed = pools_.river + offset_of(packed.bytes(), i);
                return launch_linear(p, stream);
            });
            char const* const text = variant < 0 ? "" : linear_variant_name(variant);
            std::fprintf(out_,
                "{\"kernel\": \"decode\", \"model\": \"%s\", \"linear\": \"%s\", \"group\": %d, "
                "\"rows\": %d, \"bank\": \"%s\", \"int8\": %d, \"variant\": \"%s\", \"us\": %.3f, "
                "\"gb_per_s\": %.1f}\n",
                s.model, s.linear, group, rows, bank.c_str(), int8, text, us, bytes / us / 1000.0);
            if (us < best)
            {
                best = us;
                name = text;
            }
        }
        std::printf("%-3s %-7s g%-3d rows %d %-8s %s: %7.2f us %3.0f%%  %s\n", s.model, s.linear,
            group, rows, bank.c_str(), int8 ? "int8" : "    ", best,
            100.0 * bytes / best / 1000.0 / copy_, name.c_str());
        std::fflush(stdout);
    }

private:
    FILE* out_;
    double seconds_;
    std::chrono::steady_clock::time_point start_;
    Pools pools_;
    double copy_ = 0.0;
};
} // namespace

int main(int argc, char** argv)
{
    FILE* out = argc >= 2 ? std::fopen(argv[1], "w") : nullptr;
    if (out == nullptr)
    {
        std::fprintf(stderr, "usage: decode_variants OUT.jsonl [SECONDS]\n");
        return 2;
    }
    Bench bench(out, argc >= 3 ? std::atof(argv[2]) : 60.0);
    for (int rows : {1, 4, 8, 2})
        for (Shape const& s : kShapes)
        {
            if (!bench.has_time())
                break;
            for (char const* bank : {"river", "backbone", "plain"})
                bench.measure(s, 64, rows, bank, std::string(bank) == "river");
            bench.measure(s, 64, rows, "river", false);
            bench.measure(s, 128, rows, "river", true);
            if (rows > 1)
                bench.measure(s, 64, rows, "mixed", true);
        }
    std::fclose(out);
    return 0;
}
