// Block (for either KV cache) and Head as custom operators of ONNX Runtime, domain river_trt.cpu. Weights are constant
// inputs; everything else of an operator is in block.h.
//
// A graph is a file that anyone can have written. So every attribute is checked when an operator is
// made and every tensor when it runs: block.cc takes what it is given for true.
#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <string>
#include <type_traits>
#include <utility>

#include "block.h"
#include "head.h"
#include "ort_api.h"
#include "ort_node.h"

namespace river::ort
{
namespace
{

Scratch& scratch()
{
    static thread_local Scratch scratch;
    return scratch;
}

constexpr int64_t kMostLayers = 65536;

size_t panels_of(size_t columns)
{
    return (columns + kPanel - 1) / kPanel;
}

// Cached: what the KV cache holds: float, the bits of half precision, or codes and their scales.
template <typename Cached>
struct BlockOperator
{
    static constexpr char const* kName = std::is_same_v<Cached, float> ? "Block"
        : sizeof(Cached) == 2                                          ? "BlockFloat16Cache"
                                                                       : "BlockInt8Cache";
    enum Input
    {
        kHIn,
        kExitLayer,
        kTau,
        kPinned,
        kUseDirections,
        kDirections,
        kGateScope,
        kAttended,
        kQkvIn,
        kPastLengths,
        kKCache,
        kVCache,
        kCos,
        kSin,
        kO,
        kGateUp = kO + kLinearParts,
        kDown = kGateUp + kLinearParts,
        kQkv = kDown + kLinearParts,
        kPostNorm = kQkv + kLinearParts,
        kInputNorm,
        kQNorm,
        kKNorm,
        kOutNorm,
        kDownNorm,
        kLogitIndices,
        kInputs
    };
    static constexpr size_t kOutputs = 5; // h_out, exit_layer, qkv, caches

    static int input_type(size_t index)
    {
        if (index == kExitLayer || index == kGateScope || index == kPastLengths)
            return kInt32;
        if (index == kPinned || index == kUseDirections)
            return kBool;
        if (index == kLogitIndices)
            return kInt64;
        if (index == kKCache || index == kVCache)
            return kTypeOf<Cached>;
        bool const linear = index >= kO && index < kPostNorm;
        return linear ? type_of_part((index - kO) % kLinearParts) : kFloat;
    }
    static int input_need(size_t index)
    {
        return index == kExitLayer || index >= kAttended ? kOptional : kRequired;
    }
    static int output_type(size_t index)
    {
        if (index > 2)
            return kTypeOf<Cached>;
        return index == 1 ? kInt32 : kFloat;
    }
    static int output_need(size_t index)
    {
        return index == 1 ? kRequired : kOptional;
    }

    BlockOperator(OrtApi const* api, OrtKernelInfo const* info)
        : api(api)
    {
        Node const node(api, info);
        constexpr int64_t kMostHeads = 65536;
        size_t const hidden = node.size("hidden_size");
        size_t const group = node.group_size();
        w.num_layers = static_cast<int32_t>(node.integer("num_layers", 1, kMostLayers));
        w.layer = static_cast<int32_t>(node.integer("layer", 0, w.num_layers));
        w.hidden = hidden;
        w.epsilon = node.real("epsilon");
        w.rounds = node.integer("rounds", 0, 1) != 0;
        w.group_size = group;
        w.num_heads = node.size("num_heads", 0, w.layer > 0 ? kMostHeads : 0);
        selects = node.given(kLogitIndices);
        if (selects && w.layer != w.num_layers)
            throw std::invalid_argument("a block before the last one has logit_indices");
        if (w.num_heads != 0)
        {
            w.num_kv_heads = node.size("num_kv_heads", 1, kMostHeads);
            if (w.num_heads % w.num_kv_heads != 0)
                throw std::invalid_argument("num_heads is no multiple of num_kv_heads");
            w.head_dim = node.size("head_dim", 1, kMostHeads);
            w.rotary = node.size("rotary_dim", 0, static_cast<int64_t>(w.head_dim));
            if (w.rotary % 2 != 0)
                throw std::invalid_argument("rotary_dim is odd");
            w.scale = node.real("scale");
            positions = node.size("max_seq_len");
            if (w.rotary != 0)
            {
                w.cos = node.required_weight<float>(kCos, "rotary_cos", {positions, w.rotary / 2});
                w.sin = node.required_weight<float>(kSin, "rotary_sin", {positions, w.rotary / 2});
            }
            w.window = static_cast<size_t>(node.integer_or_0("window", kMostSize));
            w.q_norm = node.weight<float>(kQNorm, "q_norm", {w.head_dim});
            w.k_norm = node.weight<float>(kKNorm, "k_norm", {w.head_dim});
        }
        if (w.layer > 0)
        {
            size_t const intermediate = node.size("intermediate_size");
            size_t const halves = 2 * panels_of(intermediate), out = panels_of(hidden);
            size_t const attended = node.size("attended_size");
            if (w.num_heads != 0 && attended != w.num_heads * w.head_dim)
                throw std::invalid_argument("attended_size is not num_heads * head_dim");
            w.o = node.linear("o", kO, attended, hidden, out, group, 4);
            w.gate_up = node.linear("gate_up", kGateUp, hidden, 2 * intermediate, halves, group, 4);
            w.down = node.linear("down", kDown, intermediate, hidden, out, group, 4);
            w.gelu = node.integer_or_0("gelu", 1) != 0;
            w.out_norm = node.weight<float>(kOutNorm, "out_norm", {hidden});
            w.down_norm = node.weight<float>(kDownNorm, "down_norm", {hidden});
            w.post_norm = node.required_weight<float>(kPostNorm, "post_norm", {hidden});
            for (size_t bank : {kBackbone, kRiver}) // a row's bank is chosen once for all three
            {
                bool const has = w.o.banks[bank].present();
                if (w.gate_up.banks[bank].present() != has || w.down.banks[bank].present() != has)
                    throw std::invalid_argument("o, gate_up and down have different banks");
            }
        }
        if (w.layer < w.num_layers)
        {
            size_t const qkv = node.size("qkv_size");
            w.qkv = node.linear("qkv", kQkv, hidden, qkv, panels_of(qkv), group, 4);
            w.input_norm = node.required_weight<float>(kInputNorm, "input_norm", {hidden});
        }
        for (Linear* linear : {&w.o, &w.gate_up, &w.down, &w.qkv})
        {
            if (linear->present())
                linear->take(memory);
        }
        memory.add(w.post_norm, hidden);
        memory.add(w.input_norm, hidden);
        memory.add(w.out_norm, hidden);
        memory.add(w.down_norm, hidden);
        memory.add(w.q_norm, w.head_dim);
        memory.add(w.k_norm, w.head_dim);
        memory.take();
    }

    void compute(OrtKernelContext* context) const
    {
        Call call(api, context);
        Shape const shape = call.shape(kHIn, "h_in", 3);
        int64_t const batch = shape.sizes[0], seq = shape.sizes[1];
        auto const hidden = static_cast<int64_t>(w.hidden);
        BlockInputs in = {};
        in.batch = static_cast<size_t>(batch);
        in.seq = static_cast<size_t>(seq);
        in.h_in = call.data<float>(kHIn, "h_in", {batch, seq, hidden});
        in.tau = call.data<float>(kTau, "tau", {w.num_layers});
        in.pinned = call.data<bool>(kPinned, "pinned", {w.num_layers});
        in.use_directions = *call.data<bool>(kUseDirections, "use_directions", {});
        in.directions = call.data<float>(kDirections, "directions", {w.num_layers, hidden});
        in.gate_scope = *call.data<int32_t>(kGateScope, "gate_scope", {});
        if (in.gate_scope < 0 || in.gate_scope > 2)
            throw std::invalid_argument("gate_scope is " + std::to_string(in.gate_scope));
        BlockOutputs out = {};
        if (w.layer > 0)
        {
            in.exit_layer = call.data<int32_t>(kExitLayer, "exit_layer", {batch, seq});
            if (w.num_heads != 0)
                attention_inputs(call, in);
            else
                in.attended = call.data<float>(
                    kAttended, "attended", {batch, seq, static_cast<int64_t>(w.o.inputs)});
            out.h_out = call.result<float>(0, "h_out", {batch, seq, hidden});
        }
        if (selects)
            wanted_rows(call, seq, in);
        out.exit_layer = call.result<int32_t>(1, "exit_layer", {batch, seq});
        if (w.qkv.present())
        {
            out.qkv =
                call.result<float>(2, "qkv", {batch, seq, static_cast<int64_t>(w.qkv.outputs)});
        }
        run_block(kernels(), w, in, out, call.pool(), scratch());
    }

    // The positions whose h_out the head reads.
    static void wanted_rows(Call const& call, int64_t seq, BlockInputs& in)
    {
        in.num_wanted = static_cast<size_t>(call.shape(kLogitIndices, "logit_indices", 1).sizes[0]);
        in.wanted = call.data<int64_t>(
            kLogitIndices, "logit_indices", {static_cast<int64_t>(in.num_wanted)});
        for (size_t i = 0; i < in.num_wanted; ++i)
        {
            if (in.wanted[i] < 0 || in.wanted[i] >= seq)
                throw std::invalid_argument("logit_indices is " + std::to_string(in.wanted[i]));
        }
    }

    void attention_inputs(Call const& call, BlockInputs& in) const
    {
        auto const batch = static_cast<int64_t>(in.batch), seq = static_cast<int64_t>(in.seq);
        auto const heads = static_cast<int64_t>(w.num_heads),
                   dim = static_cast<int64_t>(w.head_dim);
        auto const kv_heads = static_cast<int64_t>(w.num_kv_heads);
        in.qkv = call.data<float>(kQkvIn, "qkv", {batch, seq, (heads + 2 * kv_heads) * dim});
        in.past_lengths = call.data<int32_t>(kPastLengths, "past_lengths", {batch});
        int64_t const slots = call.shape(kKCache, "k_cache", 4).sizes[2];
        in.cache_length = static_cast<size_t>(slots);
        for (size_t row = 0; row < in.batch; ++row)
        {
            int64_t const past = in.past_lengths[row], end = past + seq;
            if (past < 0 || end > slots || end > static_cast<int64_t>(positions))
                throw std::invalid_argument("past_lengths leave no room in the cache");
        }
        auto const width = static_cast<int64_t>(cached_width<Cached>(w.head_dim));
        in.k_cache = cache(call, kKCache, 3, "k_cache", {batch, kv_heads, slots, width});
        in.v_cache = cache(call, kVCache, 4, "v_cache", {batch, kv_heads, slots, width});
    }

    // The output's memory is the input's, where the caller bound both to one buffer.
    static CachedRows cache(Call const& call, size_t input, size_t output, char const* name,
        std::initializer_list<int64_t> shape)
    {
        Cached const* past = call.data<Cached>(input, name, shape);
        Cached* present = call.result<Cached>(output, name, shape);
        if (present != past)
        {
            int64_t count = 1;
            for (int64_t const size : shape)
                count *= size;
            std::copy(past, past + count, present);
        }
        CachedRows rows;
        if constexpr (std::is_same_v<Cached, float>)
            rows.single = present;
        else if constexpr (sizeof(Cached) == 2)
            rows.half = present;
        else
            rows.codes = present;
        return rows;
    }

    OrtApi const* api;
    BlockWeights w;
    size_t positions = 0;
    bool selects =
        false; // the last block, where engines built since then name the rows that are read
    WeightMemory memory;
};

struct HeadOperator
{
    static constexpr char const* kName = "Head";
    // x, a linear, where each row left, then the river of rare tokens.
    static constexpr size_t kExitLayer = 1 + kLinearParts, kRare = kExitLayer + 1;
    static constexpr size_t kInputs = kRare + 4, kOutputs = 1;

    static int input_type(size_t index)
    {
        if (index == kExitLayer)
            return kInt32;
        if (index >= kRare)
            return type_of_part(index - kRare + 5); // the river among a linear's parts
        return index == 0 ? kFloat : type_of_part(index - 1);
    }
    static int input_need(size_t index)
    {
        return index == 0 ? kRequired : kOptional;
    }
    static int output_type(size_t)
    {
        return kFloat;
    }
    static int output_need(size_t)
    {
        return kRequired;
    }

    HeadOperator(OrtApi const* api, OrtKernelInfo const* info)
        : api(api)
    {
        Node const node(api, info);
        size_t const vocab = node.size("vocab_size"), hidden = node.size("hidden_size");
        int const bits = static_cast<int>(node.integer("bits", 4, 8));
        if (bits != 4 && bits != 8)
            throw std::invalid_argument("bits must be 4 or 8");
        head.rounds = node.integer("rounds", 0, 1) != 0;
        size_t const group = node.group_size();
        head.all = node.linear("head", 1, hidden, vocab, panels_of(vocab), group, bits);
        if (head.all.banks[kBackbone].present() && head.all.banks[kRiver].present())
            throw std::invalid_argument("head has two banks, and nothing chooses between them");
        // Eight bits of weights deserve sixteen of their inputs, as in the backbone: rounding those
        // to eight costs four times what rounding the weights does.
        if (bits == 8 && head.rounds)
            std::swap(head.all.banks[kBackbone], head.all.banks[kRiver]);
        auto const frequent = node.integer_or_0("frequent", static_cast<int64_t>(vocab) - 1);
        if (frequent != 0)
        {
            if (frequent % static_cast<int64_t>(kPanel) != 0)
                throw std::invalid_argument("frequent must be a multiple of 16");
            num_layers = static_cast<int32_t>(node.integer("num_layers", 1, kMostLayers));
            head.frequent = static_cast<size_t>(frequent);
            size_t const rest = vocab - head.frequent;
            head.rare = node.river("rare", kRare, hidden, rest, panels_of(rest), group);
        }
        head.take(memory);
        memory.take();
    }

    void compute(OrtKernelContext* context) const
    {
        Call call(api, context);
        Shape const shape = call.shape(0, "x", 3);
        int64_t const batch = shape.sizes[0], seq = shape.sizes[1];
        float const* x =
            call.data<float>(0, "x", {batch, seq, static_cast<int64_t>(head.all.inputs)});
        float* y =
            call.result<float>(0, "logits", {batch, seq, static_cast<int64_t>(head.all.outputs)});
        int32_t const* exit_layers = nullptr;
        if (head.rare.present())
            exit_layers = call.data<int32_t>(kExitLayer, "exit_layer", {batch, seq});
        run_head(kernels(), head, exit_layers, num_layers, x, static_cast<size_t>(batch * seq), y,
            call.pool(), scratch());
    }

    OrtApi const* api;
    Head head;
    int32_t num_layers = 0;
    WeightMemory memory;
};

// The table of functions through which ONNX Runtime sees an operator.
template <typename Operator>
struct Registered : OrtCustomOp
{
    Registered()
        : OrtCustomOp{}
    {
        version = kApiVersion;
        GetName = [](OrtCustomOp const*)
        {
            return Operator::kName;
        };
        GetExecutionProviderType = [](OrtCustomOp const*) -> char const*
        {
            return nullptr;
        };
        GetInputType = [](OrtCustomOp const*, size_t i)
        {
            return Operator::input_type(i);
        };
        GetInputTypeCount = [](OrtCustomOp const*) -> size_t
        {
            return Operator::kInputs;
        };
        GetOutputType = [](OrtCustomOp const*, size_t i)
        {
            return Operator::output_type(i);
        };
        GetOutputTypeCount = [](OrtCustomOp const*) -> size_t
        {
            return Operator::kOutputs;
        };
        GetInputCharacteristic = [](OrtCustomOp const*, size_t i)
        {
            return Operator::input_need(i);
        };
        GetOutputCharacteristic = [](OrtCustomOp const*, size_t i)
        {
            return Operator::output_need(i);
        };
        GetInputMemoryType = [](OrtCustomOp const*, size_t)
        {
            return 0;
        };
        GetStartVersion = [](OrtCustomOp const*)
        {
            return 1;
        };
        GetEndVersion = [](OrtCustomOp const*)
        {
            return INT32_MAX;
        };
        CreateKernelV2 =
            [](OrtCustomOp const*, OrtApi const* api, OrtKernelInfo const* info, void** kernel)
        {
            return guarded(api, [&] { *kernel = new Operator(api, info); });
        };
        KernelComputeV2 = [](void* kernel, OrtKernelContext* context)
        {
            auto const* self = static_cast<Operator const*>(kernel);
            return guarded(self->api, [&] { self->compute(context); });
        };
        KernelDestroy = [](void* kernel)
        {
            delete static_cast<Operator*>(kernel);
        };
    }
};

} // namespace
} // namespace river::ort

extern "C"
{

    __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(
        OrtSessionOptions* options, OrtApiBase const* base)
    {
        using namespace river::ort;
        static Registered<BlockOperator<float>> const block;
        static Registered<BlockOperator<uint16_t>> const block_float16;
        static Registered<BlockOperator<int8_t>> const block_int8;
        static Registered<HeadOperator> const head;
        static OrtCustomOpDomain* domain = nullptr; // sessions keep it
        OrtApi const* api = base->GetApi(kApiVersion);
        return guarded(api, [&]
        {
            river::kernels(); // a wrong name of them is said here, once
            if (domain == nullptr)
            {
                check(create_domain(api, "river_trt.cpu", &domain));
                check(add_operator(api, domain, &block));
                check(add_operator(api, domain, &head));
                check(add_operator(api, domain, &block_float16));
                check(add_operator(api, domain, &block_int8));
            }
            check(add_domain(api, options, domain));
        });
    }

    // Phases of all sessions are recorded from here on, in the caller's memory,
    __attribute__((visibility("default"))) void river_trace_start(
        river::TraceEvent* events, size_t room)
    {
        river::g_trace.start(events, room);
    }

    // until here, while no session runs: how many there were, though there may have been no room.
    __attribute__((visibility("default"))) size_t river_trace_stop()
    {
        return river::g_trace.stop();
    }

    // The name of the kernels that run; nothing where none of the name asked for do.
    __attribute__((visibility("default"))) const char* river_cpu_kernels()
    {
        try
        {
            return river::kernels().name;
        }
        catch (std::invalid_argument const&)
        {
            return nullptr;
        }
    }

} // extern "C"
