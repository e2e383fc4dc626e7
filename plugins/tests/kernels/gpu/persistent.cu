// Times the persistent kernel's prototype beside the launches that it replaces: o, gate_up and down of
// a layer, one row. usage: persistent OUT.jsonl
//
// Each chain is timed in a CUDA graph over copies of its weights that together exceed L2: as launches
// with programmatic dependence, each linear with its best variant, and as one launch of 3 or 6 stages.
#include <string>

#include "bench.h"
#include "persistent.cuh"

using namespace river;
using namespace river::bench;

namespace
{
constexpr int kLinears = 3; // of a chain
constexpr int kChains = 12; // of a graph
constexpr size_t kPoolBytes = size_t{1600} << 20;

struct Shape
{
    char const* model;
    int hidden, inner, heads;
};
constexpr Shape kShapes[] = {{"8B", 4096, 14336, 4096}, {"1B", 2048, 8192, 2048}};

struct Pools
{
    char* backbone = allocate(kPoolBytes);
    char* river = allocate(kPoolBytes / 2);
    char* vectors = allocate(size_t{16} << 20);
    char* flag = allocate(256);
    char* counter = allocate(256);
};

// Linear `number` of a chain; its weights begin at `backbone` and `river`, which move on.
LinearParams linear(Shape const& s, int number, Pools const& pools, char*& backbone, char*& river)
{
    auto const vector = [&](int i)
    {
        return pools.vectors + (static_cast<size_t>(i) << 20);
    };
    LinearParams p;
    p.type = DataType::kBfloat16;
    p.programmatic = true;
    p.rows = 1;
    p.n = number == 1 ? 2 * s.inner : s.hidden;
    p.k = number == 0 ? s.heads : number == 1 ? s.hidden : s.inner;
    p.x = vector(number);
    p.y = vector(number + 1);
    p.use_river = pools.flag;
    p.flags_early = true;
    p.weight = backbone;
    p.river.group_size = 128;
    p.river.packed = river;
    p.river.int8_activations = true;
    p.silu_mul = number == 1;
    p.residual = number == 1 ? nullptr : vector(4);
    float* const squares = reinterpret_cast<float*>(vector(5));
    if (number == 0)
        p.sum_squares_out = squares;
    if (number == 1)
    {
        p.norm_weight = vector(6);
        p.norm_eps = 1e-5F;
        p.sum_squares = squares;
        p.sum_squares_parts = kSumSquaresParts;
    }
    backbone += 2UL * p.n * p.k;
    river += packed_river_bytes(p.n, p.k, 128);
    return p;
}

class Chains
{
public:
    Chains(Shape const& s, Pools const& pools)
    {
        char* backbone = pools.backbone;
        char* river = pools.river;
        size_t of_chain = kPoolBytes;
        for (int chain = 0; backbone + of_chain <= pools.backbone + kPoolBytes || chain == 0;
            ++chain)
        {
            char* const begin = backbone;
            for (int i = 0; i < kLinears; ++i)
                linears_.push_back(linear(s, i, pools, backbone, river));
            of_chain = static_cast<size_t>(backbone - begin);
        }
        counter_ = reinterpret_cast<uint32_t*>(pools.counter);
        REQUIRE(cudaMemset(counter_, 0, sizeof(uint32_t)));
    }

    double launches()
    {
        return time_launches(kChains, [&](int chain, cudaStream_t stream)
        {
            for (int i = 0; i < kLinears; ++i)
                if (cudaError_t const error = launch_linear(at(chain)[i], stream);
                    error != cudaSuccess)
                    return error;
            return cudaSuccess;
        });
    }

    // Each linear's best variant, with the others as they are.
    double best_launches()
    {
        for (int i = 0; i < kLinears; ++i)
        {
            double best = 1e9;
            int best_variant = 0;
            for (int variant = 0; variant < linear_variants(); ++variant)
            {
                if (!linear_variant_fits(linears_[i], variant))
                    continue;
                set(i, variant);
                double const us = launches();
                if (us < best)
                    best = us, best_variant = variant;
            }
            set(i, best_variant);
        }
        return launches();
    }

    double persistent(int chains)
    {
        return time_launches(kChains / chains, [&](int i, cudaStream_t stream)
        {
            std::vector<LinearParams> stages;
            for (int c = 0; c < chains; ++c)
                stages.insert(stages.end(), at(i * chains + c), at(i * chains + c) + kLinears);
            return launch_persistent(stages.data(), static_cast<int>(stages.size()),
                multiprocessors(), counter_, stream);
        }) / chains;
    }

private:
    LinearParams const* at(int chain) const
    {
        int const count = static_cast<int>(linears_.size()) / kLinears;
        return &linears_[static_cast<size_t>(chain % count) * kLinears];
    }
    void set(int number, int variant)
    {
        for (size_t i = number; i < linears_.size(); i += kLinears)
            linears_[i].variant = variant;
    }

    std::vector<LinearParams> linears_;
    uint32_t* counter_;
};
} // namespace

int main(int argc, char** argv)
{
    FILE* out = argc == 2 ? std::fopen(argv[1], "w") : nullptr;
    if (out == nullptr)
    {
        std::fprintf(stderr, "usage: persistent OUT.jsonl\n");
        return 2;
    }
    Pools const pools;
    for (Shape const& s : kShapes)
        for (bool river : {true, false})
        {
            REQUIRE(cudaMemset(pools.flag, river ? 1 : 0, 1));
            Chains chains(s, pools);
            double const launches = chains.best_launches();
            double const three = chains.persistent(1);
            double const six = chains.persistent(2);
            char const* const bank = river ? "river" : "backbone";
            std::printf("%s o + gate_up + down, %s: %.2f us as launches, %.2f in one of 3 stages, "
                        "%.2f in one of 6\n",
                s.model, bank, launches, three, six);
            std::fprintf(out,
                "{\"kernel\": \"persistent\", \"model\": \"%s\", \"bank\": \"%s\", "
                "\"launches_us\": %.3f, \"three_stages_us\": %.3f, \"six_stages_us\": %.3f}\n",
                s.model, bank, launches, three, six);
            std::fflush(nullptr);
        }
    std::fclose(out);
    return 0;
}
