// One layer's kernels in a CUDA graph, replayed while flags, tau and lengths change on the device:
// every replay must give what the same launches give outside a graph, bit for bit.
#include <cstring>

#include "testing.h"

using namespace river;
using namespace river::test;

namespace
{
constexpr int kRows = 4;
constexpr int kHidden = 512;
constexpr int kHeads = 8;
constexpr int kKvHeads = 2;
constexpr int kHeadDim = 64;
constexpr int kQkv = (kHeads + 2 * kKvHeads) * kHeadDim;
constexpr int kCapacity = 256;
constexpr int kGroup = 64;

struct Linear
{
    Memory weight, qweight, scales, zero_points;
    int n, k;

    Linear(int outputs, int inputs, Random& random)
        : weight(2UL * outputs * inputs)
        , qweight(1UL * outputs * inputs / 2)
        , scales(2UL * outputs * inputs / kGroup)
        , zero_points(1UL * outputs * inputs / kGroup)
        , n(outputs)
        , k(inputs)
    {
        fill<__half>(weight, static_cast<size_t>(n) * k, random, 0.05);
        fill<__half>(scales, static_cast<size_t>(n) * k / kGroup, random, 0.002, 0.01);
        for (size_t i = 0; i < qweight.bytes(); ++i)
            qweight.as<uint8_t>()[i] = static_cast<uint8_t>(random.next());
        for (size_t i = 0; i < zero_points.bytes(); ++i)
            zero_points.as<uint8_t>()[i] = static_cast<uint8_t>(random.next() & 15U);
    }

    LinearParams params(void const* x, void const* use_river, void* y) const
    {
        LinearParams p;
        p.programmatic = true;
        p.rows = kRows;
        p.n = n;
        p.k = k;
        p.x = x;
        p.use_river = use_river;
        p.weight = weight.as<void>();
        p.river = {qweight.as<void>(), scales.as<void>(), zero_points.as<void>(), nullptr, kGroup};
        p.y = y;
        return p;
    }
};

struct Layer
{
    Random random{5};
    Linear qkv{kQkv, kHidden, random};
    Linear o{kHidden, kHeads * kHeadDim, random};
    Memory x{2 * kRows * kHidden}, norm{2 * kHidden}, qkv_out{2 * kRows * kQkv};
    Memory attended{2 * kRows * kHeads * kHeadDim}, delta{2 * kRows * kHidden};
    Memory h_out{2 * kRows * kHidden}, use_river{kRows}, exited{kRows}, exit_layer{4 * kRows};
    Memory next{kRows}, tau{16}, lengths{4 * kRows}, tables{4 * kCapacity * kHeadDim};
    Memory k_cache{2UL * kRows * kKvHeads * kCapacity * kHeadDim};
    Memory v_cache{2UL * kRows * kKvHeads * kCapacity * kHeadDim};
    std::unique_ptr<Memory> attention_workspace, gate_workspace;

    Layer()
    {
        fill<__half>(x, kRows * kHidden, random, 1.0);
        fill<__half>(norm, kHidden, random, 0.1, 1.0);
        fill<__half>(k_cache, k_cache.bytes() / 2, random, 1.0);
        fill<__half>(v_cache, v_cache.bytes() / 2, random, 1.0);
        for (int i = 0; i < kCapacity * kHeadDim; ++i)
            tables.as<float>()[i] = static_cast<float>(random.uniform());
        attention_workspace =
            std::make_unique<Memory>(attention_workspace_bytes(attention_params()));
        gate_workspace = std::make_unique<Memory>(gate_workspace_bytes(gate_params()));
    }

    AttentionParams attention_params() const
    {
        AttentionParams p;
        p.programmatic = true;
        p.batch = kRows;
        p.seq = 1;
        p.num_heads = kHeads;
        p.num_kv_heads = kKvHeads;
        p.head_dim = p.rotary_dim = kHeadDim;
        p.capacity = p.num_positions = kCapacity;
        p.scale = 0.125F;
        p.q = qkv_out.as<char>();
        p.k = qkv_out.as<char>() + 2 * kHeads * kHeadDim;
        p.v = qkv_out.as<char>() + 2 * (kHeads + kKvHeads) * kHeadDim;
        p.q_stride = p.k_stride = p.v_stride = kQkv;
        p.k_cache = k_cache.as<void>();
        p.v_cache = v_cache.as<void>();
        p.past_lengths = lengths.as<int32_t>();
        p.rotary_cos = tables.as<float>();
        p.rotary_sin = tables.as<float>() + kCapacity * kHeadDim / 2;
        p.out = attended.as<void>();
        if (attention_workspace != nullptr)
        {
            p.workspace = attention_workspace->as<void>();
            p.workspace_bytes = attention_workspace->bytes();
        }
        return p;
    }

    GateParams gate_params() const
    {
        GateParams p;
        p.programmatic = true;
        p.batch = kRows;
        p.seq = 1;
        p.hidden = kHidden;
        p.layer = 1;
        p.num_layers = 2;
        p.h_in = x.as<void>();
        p.delta = delta.as<void>();
        p.residual = x.as<void>();
        p.h_out = h_out.as<void>();
        p.tau = tau.as<float>();
        p.scope = tau.as<int32_t>() + 1;
        p.exited_out = exited.as<void>();
        p.exit_layer_out = exit_layer.as<int32_t>();
        p.use_river_next = next.as<void>();
        if (gate_workspace != nullptr)
        {
            p.workspace = gate_workspace->as<void>();
            p.workspace_bytes = gate_workspace->bytes();
        }
        return p;
    }

    bool launch(cudaStream_t stream) const
    {
        LinearParams first = qkv.params(x.as<void>(), use_river.as<void>(), qkv_out.as<void>());
        first.norm_weight = norm.as<void>();
        first.norm_eps = 1e-5F;
        LinearParams const second =
            o.params(attended.as<void>(), use_river.as<void>(), delta.as<void>());
        return launch_linear(first, stream) == cudaSuccess
            && launch_attention(attention_params(), stream) == cudaSuccess
            && launch_linear(second, stream) == cudaSuccess
            && launch_gate(gate_params(), stream) == cudaSuccess;
    }

    // What the kernels read and a captured graph does not hold.
    void set_inputs(int replay)
    {
        for (int row = 0; row < kRows; ++row)
        {
            use_river.as<uint8_t>()[row] = replay >> row & 1;
            lengths.as<int32_t>()[row] = (37 * replay + 11 * row) % kCapacity;
        }
        tau.as<float>()[0] = replay % 3 == 0 ? -INFINITY : replay % 3 == 1 ? INFINITY : 0.5F;
        tau.as<int32_t>()[1] = replay % 2 == 0 ? kTokenScope : kBatchScope;
        for (Memory* out : {&qkv_out, &attended, &delta, &h_out, &exited, &exit_layer, &next})
            out->poison();
    }

    std::vector<char> outputs() const
    {
        std::vector<char> all;
        for (Memory const* out : {&delta, &h_out, &exited, &exit_layer, &next, &k_cache, &v_cache})
            all.insert(all.end(), out->as<char>(), out->as<char>() + out->bytes());
        return all;
    }
};
} // namespace

int main()
{
    Layer layer;
    cudaStream_t stream = nullptr;
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t replayable = nullptr;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess, "stream");
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess, "capture");
    check(layer.launch(stream), "launches under capture");
    check(cudaStreamEndCapture(stream, &graph) == cudaSuccess, "end of capture");
    check(cudaGraphInstantiate(&replayable, graph, 0) == cudaSuccess, "instantiate");
    for (int replay = 0; replay < 16; ++replay)
    {
        layer.set_inputs(replay);
        check(layer.launch(stream) && cudaStreamSynchronize(stream) == cudaSuccess, "launches");
        std::vector<char> const expected = layer.outputs();
        layer.set_inputs(replay);
        check(cudaGraphLaunch(replayable, stream) == cudaSuccess
                && cudaStreamSynchronize(stream) == cudaSuccess,
            "replay");
        check(layer.outputs() == expected, "replay " + std::to_string(replay) + " differs");
        std::vector<double> delta;
        for (int i = 0; i < kRows * kHidden; ++i)
            delta.push_back(get<__half>(layer.delta, i));
        check(relative_error(delta, std::vector<double>(delta.size(), 0.0)) < INFINITY, "NaN");
    }
    return report("graph");
}
