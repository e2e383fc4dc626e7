// Block and Head as custom operators of ONNX Runtime, domain river_trt.cpu. Weights are constant
// inputs, read where they lie; everything else of an operator is in block.h.
#include <algorithm>
#include <cstdio>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "block.h"
#include "ort_api.h"

namespace river::ort
{
namespace
{

using Shape = std::vector<int64_t>;

// An ONNX Runtime call failed: its own status passes through.
struct Failure
{
    OrtStatus* status;
};

void check(OrtStatus* status)
{
    if (status != nullptr)
        throw Failure{status};
}

// Runs `work`, which may throw, for a caller that takes a status.
template <typename Work>
OrtStatus* guarded(OrtApi const* api, Work&& work)
{
    try
    {
        work();
        return nullptr;
    }
    catch (Failure const& failure)
    {
        return failure.status;
    }
    catch (std::exception const& error)
    {
        return create_status(api, kFail, error.what());
    }
}

Shape shape_of(OrtApi const* api, OrtValue const* value)
{
    OrtTensorTypeAndShapeInfo* info = nullptr;
    check(type_and_shape(api, value, &info));
    size_t count = 0;
    OrtStatus* status = dimension_count(api, info, &count);
    Shape shape(count);
    if (status == nullptr)
        status = dimensions(api, info, shape.data(), count);
    release_shape(api, info);
    check(status);
    return shape;
}

// A linear's parts among the inputs of a node: weight (float32), weight (float16), codes, scales
// and zero points of the backbone; codes, scales, zero points and pre_scale of the river; bias.
constexpr size_t kLinearParts = 10;

int type_of_part(size_t part)
{
    if (part == 1)
        return kFloat16;
    return part == 2 || part == 4 || part == 5 || part == 7 ? kUint8 : kFloat;
}

// What a node states, read when the session is made.
class Node
{
public:
    Node(OrtApi const* api, OrtKernelInfo const* info)
        : api_(api)
        , info_(info)
    {
    }

    int64_t integer(char const* name) const
    {
        int64_t value = 0;
        check(int_attribute(api_, info_, name, &value));
        return value;
    }

    size_t size(char const* name) const
    {
        int64_t const value = integer(name);
        if (value < 0)
            throw std::invalid_argument(std::string(name) + " is negative");
        return static_cast<size_t>(value);
    }

    float real(char const* name) const
    {
        float value = 0.0f;
        check(float_attribute(api_, info_, name, &value));
        return value;
    }

    // A constant input of this shape, or null where the node has none.
    template <typename T>
    T const* weight(size_t index, std::initializer_list<size_t> wanted) const
    {
        int is_constant = 0;
        OrtValue const* value = nullptr;
        check(constant_input(api_, info_, index, &is_constant, &value));
        if (!is_constant)
            return nullptr;
        Shape const shape = shape_of(api_, value);
        if (!std::equal(shape.begin(), shape.end(), wanted.begin(), wanted.end(),
                [](int64_t a, size_t b) { return static_cast<size_t>(a) == b; }))
        {
            throw std::invalid_argument("input " + std::to_string(index) + " has a wrong shape");
        }
        void* data = nullptr;
        check(tensor_data(api_, const_cast<OrtValue*>(value), &data));
        return static_cast<T const*>(data);
    }

    // The linear whose parts are the kLinearParts inputs from `first` on.
    Linear linear(size_t first, size_t inputs, size_t outputs, size_t panels, size_t group_size,
        int river_bits) const
    {
        Linear linear;
        linear.inputs = inputs;
        linear.outputs = outputs;
        linear.panels = panels;
        Bank &backbone = linear.banks[kBackbone], &river = linear.banks[kRiver];
        backbone.dense.inputs = inputs;
        backbone.dense.single = weight<float>(first, {panels, inputs, kPanel});
        backbone.dense.half = weight<uint16_t>(first + 1, {panels, inputs, kPanel});
        backbone.quantised = quantised(first + 2, inputs, panels, group_size, 8);
        river.quantised = quantised(first + 5, inputs, panels, group_size, river_bits);
        river.pre_scale = weight<float>(first + 8, {inputs});
        linear.bias = weight<float>(first + 9, {panels * kPanel});
        if (!backbone.present() && !river.present())
        {
            throw std::invalid_argument("a linear has no constant weight");
        }
        return linear;
    }

private:
    // Codes, scales and zero points are inputs first .. first + 2.
    QuantisedPanels quantised(
        size_t first, size_t inputs, size_t panels, size_t group_size, int bits) const
    {
        QuantisedPanels found = {nullptr, nullptr, nullptr, inputs, group_size, bits};
        size_t const groups = found.groups(), bytes = 4 * kPanel * static_cast<size_t>(bits) / 8;
        found.codes = weight<uint8_t>(first, {panels, groups, group_size / 4, bytes});
        found.scales = weight<float>(first + 1, {panels, groups, kPanel});
        found.zero_points = weight<uint8_t>(first + 2, {panels, groups, kPanel});
        if ((found.codes == nullptr) != (found.scales == nullptr))
        {
            throw std::invalid_argument("codes need scales");
        }
        return found;
    }

    OrtApi const* api_;
    OrtKernelInfo const* info_;
};

// What a node is given, read on every run.
class Call
{
public:
    Call(OrtApi const* api, OrtKernelContext* context)
        : api_(api)
        , context_(context)
    {
    }

    OrtValue const* value(size_t index) const
    {
        OrtValue const* value = nullptr;
        check(input(api_, context_, index, &value));
        return value;
    }

    template <typename T>
    T const* data(OrtValue const* value) const
    {
        void* data = nullptr;
        if (value != nullptr)
            check(tensor_data(api_, const_cast<OrtValue*>(value), &data));
        return static_cast<T const*>(data);
    }

    template <typename T>
    T const* data(size_t index) const
    {
        return data<T>(value(index));
    }

    template <typename T>
    T* result(size_t index, std::initializer_list<int64_t> shape) const
    {
        OrtValue* value = nullptr;
        void* data = nullptr;
        check(output(api_, context_, index, shape.begin(), shape.size(), &value));
        if (value != nullptr)
            check(tensor_data(api_, value, &data));
        return static_cast<T*>(data);
    }

    Shape shape(OrtValue const* value) const
    {
        return shape_of(api_, value);
    }

    // The session's own threads. More shares than it has threads do no harm.
    Pool pool()
    {
        auto const run = [](void* self, void (*work)(void*, size_t), size_t count, void* argument)
        {
            Call const& call = *static_cast<Call*>(self);
            check(parallel_for(call.api_, call.context_, work, count, 0, argument));
        };
        static size_t const threads = std::max(1u, std::thread::hardware_concurrency());
        return {run, this, threads};
    }

private:
    OrtApi const* api_;
    OrtKernelContext* context_;
};

Scratch& scratch()
{
    static thread_local Scratch scratch;
    return scratch;
}

size_t panels_of(size_t columns)
{
    return (columns + kPanel - 1) / kPanel;
}

struct BlockOperator
{
    static constexpr char const* kName = "Block";
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
        kInputs
    };
    static constexpr size_t kOutputs = 5; // h_out, exit_layer, qkv, caches

    static int input_type(size_t index)
    {
        if (index == kExitLayer || index == kGateScope || index == kPastLengths)
            return kInt32;
        if (index == kPinned || index == kUseDirections)
            return kBool;
        bool const linear = index >= kO && index < kPostNorm;
        return linear ? type_of_part((index - kO) % kLinearParts) : kFloat;
    }
    static int input_need(size_t index)
    {
        return index == kExitLayer || index >= kAttended ? kOptional : kRequired;
    }
    static int output_type(size_t index)
    {
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
        size_t const hidden = node.size("hidden_size"),
                     intermediate = node.size("intermediate_size");
        size_t const group = node.size("group_size");
        w.layer = static_cast<int32_t>(node.integer("layer"));
        w.num_layers = static_cast<int32_t>(node.integer("num_layers"));
        w.hidden = hidden;
        w.epsilon = node.real("epsilon");
        w.rounds = node.integer("rounds") != 0;
        w.group_size = group;
        if (group == 0 || group % 32 != 0 || group > kMaxGroup)
        {
            throw std::invalid_argument("group_size must be 32, 64, 96 or 128");
        }
        w.num_heads = node.size("num_heads");
        if (w.num_heads != 0)
        {
            w.num_kv_heads = node.size("num_kv_heads");
            w.head_dim = node.size("head_dim");
            w.rotary = node.size("rotary_dim");
            w.scale = node.real("scale");
            positions = node.size("max_seq_len");
            w.cos = node.weight<float>(kCos, {positions, w.rotary / 2});
            w.sin = node.weight<float>(kSin, {positions, w.rotary / 2});
            if (w.cos == nullptr || w.sin == nullptr)
            {
                throw std::invalid_argument("the rotary tables are no constants");
            }
        }
        if (w.layer > 0)
        {
            size_t const halves = 2 * panels_of(intermediate), out = panels_of(hidden);
            w.o = node.linear(kO, node.size("attended_size"), hidden, out, group, 4);
            w.gate_up = node.linear(kGateUp, hidden, 2 * intermediate, halves, group, 4);
            w.down = node.linear(kDown, intermediate, hidden, out, group, 4);
            w.post_norm = node.weight<float>(kPostNorm, {hidden});
        }
        if (w.layer < w.num_layers)
        {
            size_t const qkv = node.size("qkv_size");
            w.qkv = node.linear(kQkv, hidden, qkv, panels_of(qkv), group, 4);
            w.input_norm = node.weight<float>(kInputNorm, {hidden});
        }
        if ((w.layer > 0 && w.post_norm == nullptr)
            || (w.layer < w.num_layers && w.input_norm == nullptr))
        {
            throw std::invalid_argument("a norm has no constant weight");
        }
        for (Linear* linear : {&w.o, &w.gate_up, &w.down, &w.qkv})
        {
            if (linear->present())
                linear->take(memory);
        }
        memory.add(w.post_norm, hidden);
        memory.add(w.input_norm, hidden);
        memory.take();
    }

    void compute(OrtKernelContext* context) const
    {
        Call call(api, context);
        OrtValue const* h_in = call.value(kHIn);
        Shape const shape = call.shape(h_in);
        int64_t const batch = shape.at(0), seq = shape.at(1);
        BlockInputs in = {};
        in.batch = static_cast<size_t>(batch);
        in.seq = static_cast<size_t>(seq);
        in.h_in = call.data<float>(h_in);
        in.exit_layer = call.data<int32_t>(kExitLayer);
        in.tau = call.data<float>(kTau);
        in.pinned = call.data<bool>(kPinned);
        in.use_directions = *call.data<bool>(kUseDirections);
        in.directions = call.data<float>(kDirections);
        in.gate_scope = *call.data<int32_t>(kGateScope);
        if (w.num_heads != 0)
        {
            attention_inputs(call, in);
        }
        else
        {
            in.attended = call.data<float>(kAttended);
        }
        BlockOutputs out = {};
        if (w.layer > 0)
        {
            out.h_out = call.result<float>(0, {batch, seq, static_cast<int64_t>(w.hidden)});
        }
        out.exit_layer = call.result<int32_t>(1, {batch, seq});
        if (w.qkv.present())
        {
            out.qkv = call.result<float>(2, {batch, seq, static_cast<int64_t>(w.qkv.outputs)});
        }
        run_block(kernels(), w, in, out, call.pool(), scratch());
    }

    void attention_inputs(Call const& call, BlockInputs& in) const
    {
        in.qkv = call.data<float>(kQkvIn);
        in.past_lengths = call.data<int32_t>(kPastLengths);
        OrtValue const* k_cache = call.value(kKCache);
        Shape const shape = call.shape(k_cache);
        in.cache_length = static_cast<size_t>(shape.at(2));
        for (size_t row = 0; row < in.batch; ++row)
        {
            size_t const end = static_cast<size_t>(in.past_lengths[row]) + in.seq;
            if (in.past_lengths[row] < 0 || end > in.cache_length || end > positions)
            {
                throw std::invalid_argument("past_lengths leave no room in the cache");
            }
        }
        in.k_cache = cache(call, 3, shape, call.data<float>(k_cache));
        in.v_cache = cache(call, 4, shape, call.data<float>(kVCache));
    }

    // The output's memory is the input's, where the caller bound both to one buffer.
    static float* cache(Call const& call, size_t output, Shape const& shape, float const* past)
    {
        auto* present =
            call.result<float>(output, {shape.at(0), shape.at(1), shape.at(2), shape.at(3)});
        if (present != past)
        {
            std::copy(past, past + shape[0] * shape[1] * shape[2] * shape[3], present);
        }
        return present;
    }

    OrtApi const* api;
    BlockWeights w;
    size_t positions = 0;
    WeightMemory memory;
};

struct HeadOperator
{
    static constexpr char const* kName = "Head";
    static constexpr size_t kInputs = 1 + kLinearParts, kOutputs = 1; // x, then a linear

    static int input_type(size_t index)
    {
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
        size_t const vocab = node.size("vocab_size");
        rounds = node.integer("rounds") != 0;
        linear = node.linear(1, node.size("hidden_size"), vocab, panels_of(vocab),
            node.size("group_size"), static_cast<int>(node.integer("bits")));
        linear.take(memory);
        memory.take();
    }

    void compute(OrtKernelContext* context) const
    {
        Call call(api, context);
        OrtValue const* x = call.value(0);
        Shape const shape = call.shape(x);
        int64_t const batch = shape.at(0), seq = shape.at(1);
        float* y = call.result<float>(0, {batch, seq, static_cast<int64_t>(linear.outputs)});
        run_linear(kernels(), linear, rounds, nullptr, call.data<float>(x),
            static_cast<size_t>(batch * seq), y, call.pool(), scratch());
    }

    OrtApi const* api;
    Linear linear;
    bool rounds;
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
        static Registered<BlockOperator> const block;
        static Registered<HeadOperator> const head;
        static OrtCustomOpDomain* domain = nullptr; // sessions keep it
        OrtApi const* api = base->GetApi(kApiVersion);
        return guarded(api, [&]
        {
            if (domain == nullptr)
            {
                check(create_domain(api, "river_trt.cpu", &domain));
                check(add_operator(api, domain, &block));
                check(add_operator(api, domain, &head));
            }
            check(add_domain(api, options, domain));
        });
    }

    // The name of the kernels that this processor gets.
    __attribute__((visibility("default"))) const char* river_cpu_kernels()
    {
        return river::kernels().name;
    }

} // extern "C"
