// Block and Head with what a crafted graph can give them: attributes, shapes, types, absent inputs
// and outputs, values. Each is refused with a text, or runs; a sanitizer sees what it touches.
//
//   program SEED COUNT
#include <cmath>
#include <cstdio>
#include <functional>
#include <limits>
#include <random>

#include "fake_ort.h"

extern "C" OrtStatus* RegisterCustomOps(OrtSessionOptions* options, OrtApiBase const* base);

namespace
{

constexpr int kFloat = 1, kUint8 = 2, kInt8 = 3, kInt32 = 6, kInt64 = 7, kBool = 9, kHalf = 10;
constexpr size_t kParts = 10;
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
    kGateUp = kO + kParts,
    kDown = kGateUp + kParts,
    kQkv = kDown + kParts,
    kPostNorm = kQkv + kParts,
    kInputNorm,
    kQNorm,
    kKNorm,
    kOutNorm,
    kDownNorm,
    kLogitIndices,
    kInputs
};

constexpr size_t kHeadExitLayer = 1 + kParts, kRare = kHeadExitLayer + 1, kHeadInputs = kRare + 4;

using Random = std::mt19937_64;

int64_t below(Random& random, int64_t bound)
{
    return static_cast<int64_t>(random() % static_cast<uint64_t>(bound));
}

// A node and one call of it.
struct Case
{
    bool head = false;
    size_t cache = 0; // of float32, half precision or codes
    OrtKernelInfo info;
    OrtKernelContext context;
    std::vector<bool> constant; // by input: known when the node is made

    void put(size_t index, int type, std::vector<int64_t> shape, bool is_constant, Random& random)
    {
        auto value = std::make_shared<OrtValue>();
        value->type = type;
        value->shape = std::move(shape);
        value->allocate();
        for (size_t i = 0; i < value->count(); ++i)
        {
            if (type == kFloat)
                value->values<float>()[i] =
                    static_cast<float>(below(random, 2001) - 1000) / 1000.0f;
            else if (type == kUint8 || type == kInt8)
                value->values<uint8_t>()[i] = static_cast<uint8_t>(random());
            else if (type == kHalf)
                value->values<uint16_t>()[i] = static_cast<uint16_t>(random() & 0xbbff);
        }
        context.inputs[index] = value;
        constant[index] = is_constant;
    }

    void resize(size_t inputs, size_t outputs)
    {
        context.inputs.resize(inputs);
        context.outputs.resize(outputs);
        context.taken.assign(outputs, true);
        constant.assign(inputs, false);
    }

    // What ONNX Runtime would know when it makes the node.
    void finish()
    {
        info.constants.assign(context.inputs.size(), nullptr);
        info.named.assign(context.inputs.size(), false);
        for (size_t i = 0; i < context.inputs.size(); ++i)
        {
            info.named[i] = context.inputs[i] != nullptr;
            if (constant[i])
                info.constants[i] = context.inputs[i];
        }
    }
};

int64_t groups_of(int64_t inputs, int64_t group)
{
    return (inputs + group - 1) / group;
}

void put_codes(Case& made, size_t at, int64_t panels, int64_t inputs, int64_t group, int64_t bits,
    Random& random)
{
    int64_t const groups = groups_of(inputs, group);
    made.put(at, kUint8, {panels, groups, group / 4, 8 * bits}, true, random);
    made.put(at + 1, kFloat, {panels, groups, 16}, true, random);
    if (random() % 2)
        made.put(at + 2, kUint8, {panels, groups, 16}, true, random);
}

// banks: backbone, river, both.
void put_linear(Case& made, size_t at, int64_t panels, int64_t inputs, int64_t group, int64_t banks,
    Random& random)
{
    if (banks != 1)
    {
        int64_t const kind = below(random, 3);
        if (kind == 2)
            put_codes(made, at + 2, panels, inputs, group, 8, random);
        else
            made.put(at + static_cast<size_t>(kind), kind == 0 ? kFloat : kHalf,
                {panels, inputs, 16}, true, random);
    }
    if (banks != 0)
    {
        put_codes(made, at + 5, panels, inputs, group, 4, random);
        if (random() % 2)
            made.put(at + 8, kFloat, {inputs}, true, random);
    }
    if (random() % 2)
        made.put(at + 9, kFloat, {panels * 16}, true, random);
}

Case make_block(Random& random)
{
    Case made;
    made.resize(kInputs, 5);
    auto& attributes = made.info.integers;
    int64_t const layers = 1 + below(random, 3), layer = below(random, layers + 1);
    int64_t const hidden = 1 + below(random, 70), intermediate = 1 + below(random, 70);
    int64_t const group = 32 * (1 + below(random, 4));
    int64_t const kv_heads = 1 + below(random, 3), heads = kv_heads * (1 + below(random, 3));
    int64_t const dim = 1 + below(random, 40), rotary = 2 * below(random, dim / 2 + 1);
    int64_t const batch = 1 + below(random, 3), seq = 1 + below(random, 12);
    int64_t const slots = seq + below(random, 20), positions = slots + below(random, 4);
    bool const attends = layer > 0 && random() % 4 != 0;
    int64_t const attended = attends ? heads * dim : 1 + below(random, 70);
    int64_t const qkv = 1 + below(random, 70);
    attributes = {{"hidden_size", hidden}, {"intermediate_size", layer > 0 ? intermediate : 0},
        {"group_size", group}, {"layer", layer}, {"num_layers", layers},
        {"rounds", below(random, 2)}, {"num_heads", attends ? heads : 0},
        {"attended_size", attended}, {"qkv_size", qkv}, {"num_kv_heads", kv_heads},
        {"head_dim", dim}, {"rotary_dim", rotary}, {"max_seq_len", positions}};
    made.info.reals = {{"epsilon", 1e-5f}, {"scale", 0.125f}};
    made.put(kHIn, kFloat, {batch, seq, hidden}, false, random);
    made.put(kTau, kFloat, {layers}, false, random);
    made.put(kPinned, kBool, {layers}, false, random);
    made.put(kUseDirections, kBool, {}, false, random);
    made.put(kDirections, kFloat, {layers, hidden}, false, random);
    made.put(kGateScope, kInt32, {}, false, random);
    made.context.inputs[kGateScope]->values<int32_t>()[0] = static_cast<int32_t>(below(random, 3));
    made.context.inputs[kUseDirections]->values<bool>()[0] = random() % 2;
    int64_t const out = (hidden + 15) / 16, banks = below(random, 3);
    if (layer > 0)
    {
        made.put(kExitLayer, kInt32, {batch, seq}, false, random);
        put_linear(made, kO, out, attended, group, banks, random);
        put_linear(made, kGateUp, 2 * ((intermediate + 15) / 16), hidden, group, banks, random);
        put_linear(made, kDown, out, intermediate, group, banks, random);
        made.put(kPostNorm, kFloat, {hidden}, true, random);
        for (size_t i : {kOutNorm, kDownNorm})
            if (random() % 2)
                made.put(i, kFloat, {hidden}, true, random);
        if (random() % 2)
            made.info.integers["gelu"] = below(random, 2);
        if (layer == layers && random() % 2)
        {
            int64_t const wanted = below(random, seq + 2);
            made.put(kLogitIndices, kInt64, {wanted}, false, random);
            for (int64_t i = 0; i < wanted; ++i)
                made.context.inputs[kLogitIndices]->values<int64_t>()[i] = below(random, seq);
        }
    }
    if (attends)
    {
        made.put(kQkvIn, kFloat, {batch, seq, (heads + 2 * kv_heads) * dim}, false, random);
        made.put(kPastLengths, kInt32, {batch}, false, random);
        for (int64_t i = 0; i < batch; ++i)
            made.context.inputs[kPastLengths]->values<int32_t>()[i] =
                static_cast<int32_t>(below(random, slots - seq + 1));
        made.cache = random() % 3;
        int const type = made.cache == 0 ? kFloat : made.cache == 1 ? kHalf : kInt8;
        int64_t const width = dim + (type == kInt8 ? 4 : 0);
        for (size_t i : {kKCache, kVCache})
            made.put(i, type, {batch, kv_heads, slots, width}, false, random);
        if (random() % 2) // as a session binds them
        {
            made.context.outputs[3] = made.context.inputs[kKCache];
            made.context.outputs[4] = made.context.inputs[kVCache];
        }
        for (size_t i : {kCos, kSin})
            made.put(i, kFloat, {positions, rotary / 2}, true, random);
        for (size_t i : {kQNorm, kKNorm})
            if (random() % 2)
                made.put(i, kFloat, {dim}, true, random);
        if (random() % 2)
            made.info.integers["window"] = below(random, 20);
    }
    else if (layer > 0)
    {
        made.put(kAttended, kFloat, {batch, seq, attended}, false, random);
    }
    if (layer < layers)
    {
        put_linear(made, kQkv, (qkv + 15) / 16, hidden, group, below(random, 3), random);
        made.put(kInputNorm, kFloat, {hidden}, true, random);
    }
    made.context.taken = {layer > 0, true, layer < layers, attends, attends};
    return made;
}

Case make_head(Random& random)
{
    Case made;
    made.head = true;
    made.resize(kHeadInputs, 1);
    int64_t const hidden = 1 + below(random, 70), vocab = 1 + below(random, 90);
    int64_t const batch = 1 + below(random, 3), seq = 1 + below(random, 12);
    int64_t const group = 32 * (1 + below(random, 4)), bits = random() % 2 ? 4 : 8;
    made.info.integers = {{"hidden_size", hidden}, {"vocab_size", vocab}, {"group_size", group},
        {"bits", bits}, {"rounds", below(random, 2)}};
    made.put(0, kFloat, {batch, seq, hidden}, false, random);
    put_codes(made, 6, (vocab + 15) / 16, hidden, group, bits, random);
    if (vocab > 16 && random() % 2) // a river of its own
    {
        int64_t const frequent = 16 * (1 + below(random, (vocab - 1) / 16)), layers = 3;
        made.info.integers["frequent"] = frequent;
        made.info.integers["num_layers"] = layers;
        made.put(kHeadExitLayer, kInt32, {batch, seq}, false, random);
        for (int64_t i = 0; i < batch * seq; ++i)
            made.context.inputs[kHeadExitLayer]->values<int32_t>()[i] =
                static_cast<int32_t>(1 + below(random, layers));
        put_codes(made, kRare, (vocab - frequent + 15) / 16, hidden, group, 4, random);
        if (random() % 2)
            made.put(kRare + 3, kFloat, {hidden}, true, random);
    }
    return made;
}

// The text of the refusal; "" where the operator ran.
std::string run(Case& made)
{
    static OrtApiBase const base = {[](uint32_t) { return &fake::api(); }, nullptr};
    static OrtSessionOptions options;
    if (options.domain == nullptr && RegisterCustomOps(&options, &base) != nullptr)
        return "the operators cannot be registered";
    made.finish();
    OrtCustomOp const& op = *options.domain->operators.at(made.head ? 1
            : made.cache == 0                                       ? 0
                                                                    : 1 + made.cache);
    void* kernel = nullptr;
    std::string text = fake::text_of(op.CreateKernelV2(&op, &fake::api(), &made.info, &kernel));
    if (!text.empty())
        return text;
    text = fake::text_of(op.KernelComputeV2(kernel, &made.context));
    op.KernelDestroy(kernel);
    return text;
}

// One thing that a crafted graph does.
void spoil(Case& made, Random& random)
{
    static int64_t const kWild[] = {0, 1, -1, 2, 3, 7, 31, 33, 64, 96, 128, 160, 4096, 65536, 65537,
        int64_t{1} << 30, int64_t{1} << 31, int64_t{1} << 32, int64_t{1} << 62,
        std::numeric_limits<int64_t>::max(), std::numeric_limits<int64_t>::min()};
    auto const wild = [&]
    {
        return kWild[random() % std::size(kWild)];
    };
    auto& inputs = made.context.inputs;
    size_t const chosen = random() % inputs.size();
    switch (random() % 9)
    {
    case 0:
    case 1: // an attribute, wild or a little off
    {
        auto at = made.info.integers.begin();
        std::advance(at, below(random, static_cast<int64_t>(made.info.integers.size())));
        if (random() % 2)
            at->second = wild();
        else if (at->second < int64_t{1} << 60 && at->second > -(int64_t{1} << 60))
            at->second += below(random, 5) - 2;
        break;
    }
    case 2:
        made.info.reals["epsilon"] = random() % 2 ? NAN : -1.0f;
        break;
    case 3: // an input is absent, or no constant, or a constant
        if (random() % 2)
            inputs[chosen] = nullptr;
        made.constant[chosen] = inputs[chosen] != nullptr && random() % 2;
        break;
    case 4: // another shape
    case 5:
        if (inputs[chosen] != nullptr)
        {
            std::vector<int64_t> shape = inputs[chosen]->shape;
            size_t const axis = shape.empty() ? 0 : random() % shape.size();
            switch (random() % 4)
            {
            case 0:
                shape.push_back(1 + below(random, 2));
                break;
            case 1:
                if (!shape.empty())
                    shape.pop_back();
                break;
            default:
                if (!shape.empty())
                    shape[axis] = std::max<int64_t>(0, shape[axis] + below(random, 5) - 2);
            }
            made.put(chosen, inputs[chosen]->type, shape, made.constant[chosen], random);
        }
        break;
    case 6: // another type
        if (inputs[chosen] != nullptr)
        {
            static int const kTypes[] = {kFloat, kUint8, kInt32, kInt64, kBool, kHalf, kInt8};
            made.put(
                chosen, kTypes[random() % 7], inputs[chosen]->shape, made.constant[chosen], random);
        }
        break;
    case 7: // an output that nothing takes
        made.context.taken[random() % made.context.taken.size()] = false;
        break;
    default: // values that count or number something
        for (size_t i : {kExitLayer, kPastLengths, kGateScope})
        {
            if (i < inputs.size() && inputs[i] != nullptr && inputs[i]->type == kInt32
                && inputs[i]->count() > 0)
            {
                inputs[i]->values<int32_t>()[random() % inputs[i]->count()] =
                    static_cast<int32_t>(wild());
            }
        }
        if (kLogitIndices < inputs.size() && inputs[kLogitIndices] != nullptr
            && inputs[kLogitIndices]->type == kInt64 && inputs[kLogitIndices]->count() > 0)
        {
            inputs[kLogitIndices]->values<int64_t>()[0] = wild();
        }
        for (size_t i : {kHIn, kTau, kKCache})
        {
            if (i < inputs.size() && inputs[i] != nullptr && inputs[i]->type == kFloat
                && inputs[i]->count() > 0)
            {
                static float const kValues[] = {NAN, INFINITY, -INFINITY, 1e38f};
                inputs[i]->values<float>()[random() % inputs[i]->count()] = kValues[random() % 4];
            }
        }
    }
}

// Faults that corrupted memory once: each must be refused, with a text that names its place.
struct Known
{
    char const* place;
    std::function<void(Case&, Random&)> spoil;
};

Case attending_block(Random& random)
{
    for (;;)
    {
        Case made = make_block(random);
        auto const& inputs = made.context.inputs;
        bool const both = inputs[kO + 5] != nullptr
            && (inputs[kO] != nullptr || inputs[kO + 1] != nullptr || inputs[kO + 2] != nullptr);
        if (made.info.integers["num_heads"] > 0 && both && made.context.taken[2]
            && made.info.integers["rotary_dim"] > 0)
        {
            return made;
        }
    }
}

int check_known(Random& random)
{
    auto const attribute = [](char const* name, int64_t value)
    {
        return [=](Case& made, Random&)
        {
            made.info.integers[name] = value;
        };
    };
    auto const absent = [](size_t input)
    {
        return [=](Case& made, Random&)
        {
            made.context.inputs[input] = nullptr;
        };
    };
    auto const narrow = [](size_t input, size_t axis)
    {
        return [=](Case& made, Random& random)
        {
            std::vector<int64_t> shape = made.context.inputs[input]->shape;
            shape.at(axis) -= 1;
            made.put(input, made.context.inputs[input]->type, shape, made.constant[input], random);
        };
    };
    Known const known[] = {
        {"rotary_dim", attribute("rotary_dim", 4096)},
        {"rotary_cos", narrow(kCos, 0)},
        {"num_kv_heads", attribute("num_kv_heads", 0)},
        {"num_heads", attribute("num_heads", int64_t{1} << 40)},
        {"head_dim", attribute("head_dim", int64_t{1} << 40)},
        {"layer", attribute("layer", -5)},
        {"layer", attribute("layer", 1 << 20)},
        {"num_layers", attribute("num_layers", int64_t{1} << 33)},
        {"group_size", attribute("group_size", 0)},
        {"hidden_size", attribute("hidden_size", 0)},
        {"intermediate_size", attribute("intermediate_size", -1)},
        {"attended_size", attribute("attended_size", 1)},
        {"qkv_size", attribute("qkv_size", 0)},
        {"max_seq_len", attribute("max_seq_len", 0)},
        {"h_in", narrow(kHIn, 2)},
        {"h_in", absent(kHIn)},
        {"exit_layer", narrow(kExitLayer, 1)},
        {"exit_layer", absent(kExitLayer)},
        {"tau", narrow(kTau, 0)},
        {"tau", absent(kTau)},
        {"pinned", narrow(kPinned, 0)},
        {"pinned", absent(kPinned)},
        {"use_directions", absent(kUseDirections)},
        {"directions", narrow(kDirections, 1)},
        {"directions", absent(kDirections)},
        {"gate_scope", absent(kGateScope)},
        {"qkv", narrow(kQkvIn, 2)},
        {"qkv", absent(kQkvIn)},
        {"past_lengths", narrow(kPastLengths, 0)},
        {"past_lengths", absent(kPastLengths)},
        {"v_cache", narrow(kVCache, 2)},
        {"v_cache", narrow(kVCache, 3)},
        {"v_cache", absent(kVCache)},
        {"k_cache", narrow(kKCache, 1)},
        {"k_cache", absent(kKCache)},
        {"post_norm", absent(kPostNorm)},
        {"input_norm", narrow(kInputNorm, 0)},
        {"window", attribute("window", -1)},
        {"gelu", attribute("gelu", 2)},
        {"out_norm", [](Case& made, Random& random)
    { made.put(kOutNorm, kFloat, {made.info.integers["hidden_size"] + 1}, true, random); }},
        {"k_norm", [](Case& made, Random& random)
    { made.put(kKNorm, kFloat, {made.info.integers["head_dim"] + 1}, true, random); }},
        {"h_out", [](Case& made, Random&) { made.context.taken[0] = false; }},
        {"exit_layer", [](Case& made, Random&) { made.context.taken[1] = false; }},
        {"qkv", [](Case& made, Random&) { made.context.taken[2] = false; }},
        {"k_cache", [](Case& made, Random&) { made.context.taken[3] = false; }},
        {"gate_scope",
            [](Case& made, Random&) { made.context.inputs[kGateScope]->values<int32_t>()[0] = 3; }},
        {"past_lengths", [](Case& made, Random&)
    { made.context.inputs[kPastLengths]->values<int32_t>()[0] = -1; }},
        {"past_lengths", [](Case& made, Random&)
    { made.context.inputs[kPastLengths]->values<int32_t>()[0] = 1 << 20; }},
        {"different banks",
            [](Case& made, Random&)
    {
        for (size_t part = 5; part < 9; ++part)
            made.context.inputs[kDown + part] = nullptr;
    }},
        {"down.bias is no constant",
            [](Case& made, Random& random)
    {
        made.put(
            kDown + 9, kFloat, {made.info.integers["hidden_size"] / 16 * 16 + 16}, false, random);
    }},
    };
    int wrong = 0;
    for (Known const& fault : known)
    {
        Case made = attending_block(random);
        fault.spoil(made, random);
        std::string const text = run(made);
        if (text.find(fault.place) == std::string::npos)
        {
            std::printf("a fault in %s: %s\n", fault.place, text.empty() ? "ran" : text.c_str());
            ++wrong;
        }
    }
    std::printf("known faults refused: %zu\n", std::size(known) - static_cast<size_t>(wrong));
    return wrong;
}

} // namespace

int main(int argc, char** argv)
{
    Random random(argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 1);
    long const count = argc > 2 ? std::atol(argv[2]) : 2000;
    int wrong = check_known(random);
    long ran = 0, refused = 0;
    for (long i = 0; i < count; ++i)
    {
        Case made = random() % 8 ? make_block(random) : make_head(random);
        int64_t const faults = below(random, 4);
        for (int64_t j = 0; j < faults; ++j)
            spoil(made, random);
        std::string const text = run(made);
        if (faults == 0 && !text.empty())
        {
            std::printf("a sound node is refused: %s\n", text.c_str());
            ++wrong;
        }
        ++(text.empty() ? ran : refused);
    }
    std::printf("nodes: %ld, ran: %ld, refused: %ld\n", count, ran, refused);
    return wrong == 0 && (count < 1000 || (ran > count / 10 && refused > count / 10)) ? 0 : 1;
}
