// Attention against double precision: GQA, splits, rotary, the append, windows, softcap, prefill.
#include <algorithm>
#include <cstring>

#include "testing.h"

using namespace river;
using namespace river::test;

namespace
{
uint64_t seed = 21;

struct AttentionShape
{
    int batch = 1;
    int seq = 1;
    int num_heads = 4;
    int num_kv_heads = 2;
    int head_dim = 64;
    int capacity = 64;
    int rotary_dim = 64;
    std::vector<int> past = {0}; // repeated over the batch
    int window = 0;
    double softcap = 0.0;
    bool packed_qkv = true; // q, k and v are parts of one tensor
    bool scattered = false; // sequences in any rows of larger caches
    Merge merge = Merge::kChosen;
    int splits = 0;
    int queries = 0;
    int warps = 0;

    std::string name() const
    {
        char text[240];
        std::snprintf(text, sizeof(text),
            "attention batch=%d seq=%d heads=%d/%d dim=%d T=%d R=%d past=%d window=%d cap=%g "
            "merge=%d splits=%d queries=%d warps=%d",
            batch, seq, num_heads, num_kv_heads, head_dim, capacity, rotary_dim, past[0], window,
            softcap, static_cast<int>(merge), splits, queries, warps);
        return text;
    }
};

template <typename T>
class AttentionCase
{
public:
    AttentionShape const shape;
    int const tokens;
    AttentionParams params;
    Memory qkv, k_cache, v_cache, lengths, rows, cos, sin, out;
    std::unique_ptr<Memory> workspace;

    explicit AttentionCase(AttentionShape const& s)
        : shape(s)
        , tokens(s.batch * s.seq)
        , qkv(2UL * tokens * (s.num_heads + 2 * s.num_kv_heads) * s.head_dim)
        , k_cache(2UL * cache_size(s))
        , v_cache(2UL * cache_size(s))
        , lengths(4UL * s.batch)
        , rows(4UL * s.batch)
        , cos(4UL * s.capacity * s.rotary_dim / 2)
        , sin(4UL * s.capacity * s.rotary_dim / 2)
        , out(2UL * tokens * s.num_heads * s.head_dim)
    {
        Random random(++seed);
        fill<T>(qkv, qkv.bytes() / 2, random, 1.0);
        k_cache.poison(); // slots that hold nothing must not be read
        v_cache.poison();
        out.poison();
        for (int b = 0; b < s.batch; ++b)
        {
            lengths.as<int32_t>()[b] = past(b);
            rows.as<int32_t>()[b] = row(b);
            for (int head = 0; head < s.num_kv_heads; ++head)
                for (int i = 0; i < past(b) * s.head_dim; ++i)
                {
                    put<T>(k_cache, slot(b, head, 0) + i, random.normal());
                    put<T>(v_cache, slot(b, head, 0) + i, random.normal());
                }
        }
        for (int i = 0; i < s.capacity * s.rotary_dim / 2; ++i)
        {
            double const angle = 6.28 * random.uniform();
            cos.as<float>()[i] = static_cast<float>(std::cos(angle));
            sin.as<float>()[i] = static_cast<float>(std::sin(angle));
        }
        set_params();
    }

    int past(int b) const
    {
        return shape.past[b % shape.past.size()];
    }

    void run_and_compare(int times = 1)
    {
        std::string const name = shape.name();
        std::vector<char> before(k_cache.as<char>(), k_cache.as<char>() + k_cache.bytes());
        char const* reason = explain_attention(params);
        check(reason == nullptr, name + ": " + (reason == nullptr ? "" : reason));
        for (int i = 0; i < times; ++i)
            check(finished(launch_attention(params, nullptr)), name + ": launch");
        compare_output(name);
        compare_caches(name, before);
    }

private:
    int row(int b) const // of the caches; the first two are nobody's where rows are scattered
    {
        return shape.scattered ? shape.batch + 1 - b : b;
    }
    static size_t cache_size(AttentionShape const& s)
    {
        return static_cast<size_t>(s.batch + (s.scattered ? 2 : 0)) * s.num_kv_heads * s.capacity
            * s.head_dim;
    }
    size_t slot(int b, int head, int position) const
    {
        return ((static_cast<size_t>(row(b)) * shape.num_kv_heads + head) * shape.capacity
                   + position)
            * shape.head_dim;
    }

    // Element d of a head of q, k (rotated) or v; head counts through q, then k, then v.
    double element(int token, int head, int d)
    {
        int const heads = shape.num_heads + 2 * shape.num_kv_heads;
        size_t const base = shape.packed_qkv
            ? (static_cast<size_t>(token) * heads + head) * shape.head_dim
            : unpacked(token, head);
        double const x = get<T>(qkv, base + d);
        int const half = shape.rotary_dim / 2;
        if (head >= shape.num_heads + shape.num_kv_heads || d >= 2 * half)
            return x;
        int const position = past(token / shape.seq) + token % shape.seq;
        int const angle = position * half + d % half;
        double const partner = get<T>(qkv, base + (d < half ? d + half : d - half));
        double const turn = d < half ? -partner : partner;
        return x * cos.as<float>()[angle] + turn * sin.as<float>()[angle];
    }
    size_t unpacked(int token, int head) const // q, then k, then v as tensors of their own
    {
        int const sizes[3] = {shape.num_heads, shape.num_kv_heads, shape.num_kv_heads};
        size_t base = 0;
        int part = 0;
        while (head >= sizes[part])
        {
            head -= sizes[part];
            base += static_cast<size_t>(tokens) * sizes[part] * shape.head_dim;
            ++part;
        }
        return base + (static_cast<size_t>(token) * sizes[part] + head) * shape.head_dim;
    }
    double rounded_to_t(double x)
    {
        return bits_to_double(static_cast<float>(x));
    }
    static double bits_to_double(float x)
    {
        uint16_t word = 0;
        Numeric<T>::store(&word, 0, x);
        return Numeric<T>::load(&word, 0);
    }
    double key(int b, int head, int position, int d)
    {
        if (position < past(b))
            return get<T>(k_cache, slot(b, head, position) + d);
        return rounded_to_t(element(b * shape.seq + position - past(b), shape.num_heads + head, d));
    }
    double value(int b, int head, int position, int d)
    {
        if (position < past(b))
            return get<T>(v_cache, slot(b, head, position) + d);
        return element(
            b * shape.seq + position - past(b), shape.num_heads + shape.num_kv_heads + head, d);
    }

    void compare_output(std::string const& name)
    {
        std::vector<double> got;
        std::vector<double> expected;
        for (int token = 0; token < tokens; ++token)
            for (int head = 0; head < shape.num_heads; ++head)
                attend(token, head, got, expected);
        double const error = relative_error(got, expected);
        check(error <= tolerance<T>(), name + " error " + std::to_string(error));
    }

    void attend(int token, int head, std::vector<double>& got, std::vector<double>& expected)
    {
        int const b = token / shape.seq;
        int const position = past(b) + token % shape.seq;
        int const kv_head = head / (shape.num_heads / shape.num_kv_heads);
        int const first = shape.window > 0 ? std::max(0, position - shape.window + 1) : 0;
        std::vector<double> query;
        for (int d = 0; d < shape.head_dim; ++d)
            query.push_back(element(token, head, d));
        std::vector<double> weights;
        double total = 0.0;
        for (int p = first; p <= position; ++p)
        {
            double score = 0.0;
            for (int d = 0; d < shape.head_dim; ++d)
                score += query[d] * key(b, kv_head, p, d);
            score *= params.scale;
            if (shape.softcap > 0)
                score = shape.softcap * std::tanh(score / shape.softcap);
            weights.push_back(std::exp(score));
            total += weights.back();
        }
        for (int d = 0; d < shape.head_dim; ++d)
        {
            double sum = 0.0;
            for (int p = first; p <= position; ++p)
                sum += weights[p - first] / total * value(b, kv_head, p, d);
            expected.push_back(sum);
            got.push_back(get<T>(
                out, (static_cast<size_t>(token) * shape.num_heads + head) * shape.head_dim + d));
        }
    }

    void compare_caches(std::string const& name, std::vector<char> const& before)
    {
        std::vector<double> got;
        std::vector<double> expected;
        bool kept = true;
        for (int b = 0; b < shape.batch; ++b)
            for (int head = 0; head < shape.num_kv_heads; ++head)
                for (int p = 0; p < shape.capacity; ++p)
                {
                    bool const is_new = p >= past(b) && p < past(b) + shape.seq;
                    for (int d = 0; d < shape.head_dim && is_new; ++d)
                    {
                        size_t const at = slot(b, head, p) + d;
                        got.push_back(get<T>(k_cache, at));
                        expected.push_back(key(b, head, p, d));
                        got.push_back(get<T>(v_cache, at));
                        expected.push_back(value(b, head, p, d));
                    }
                    size_t const bytes = 2UL * shape.head_dim;
                    size_t const at = 2 * slot(b, head, p);
                    kept = kept
                        && (is_new
                            || std::memcmp(k_cache.as<char>() + at, before.data() + at, bytes)
                                == 0);
                }
        size_t const others = shape.scattered ? 2 * slot(shape.batch - 1, 0, 0) : 0;
        kept = kept && std::memcmp(k_cache.as<char>(), before.data(), others) == 0;
        check(relative_error(got, expected) <= 1e-3, name + ": new slots of the caches");
        check(kept, name + ": other slots must stay as they were");
    }

    void set_params()
    {
        AttentionShape const& s = shape;
        params.type = type_of<T>();
        params.batch = s.batch;
        params.seq = s.seq;
        params.num_heads = s.num_heads;
        params.num_kv_heads = s.num_kv_heads;
        params.head_dim = s.head_dim;
        params.capacity = s.capacity;
        params.rotary_dim = s.rotary_dim;
        params.num_positions = s.capacity;
        params.scale = static_cast<float>(1.0 / std::sqrt(s.head_dim));
        params.window = s.window;
        params.merge = s.merge;
        params.splits = s.splits;
        params.queries = s.queries;
        params.warps = s.warps;
        params.softcap = static_cast<float>(s.softcap);
        int const heads = s.num_heads + 2 * s.num_kv_heads;
        size_t const q_bytes = 2UL * s.num_heads * s.head_dim * (s.packed_qkv ? 1 : tokens);
        size_t const kv_bytes = 2UL * s.num_kv_heads * s.head_dim * (s.packed_qkv ? 1 : tokens);
        params.q = qkv.as<char>();
        params.k = qkv.as<char>() + q_bytes;
        params.v = qkv.as<char>() + q_bytes + kv_bytes;
        params.q_stride = (s.packed_qkv ? heads : s.num_heads) * s.head_dim;
        params.k_stride = (s.packed_qkv ? heads : s.num_kv_heads) * s.head_dim;
        params.v_stride = params.k_stride;
        params.k_cache = k_cache.as<void>();
        params.v_cache = v_cache.as<void>();
        params.past_lengths = lengths.as<int32_t>();
        params.cache_rows = s.scattered ? rows.as<int32_t>() : nullptr;
        params.rotary_cos = cos.as<float>();
        params.rotary_sin = sin.as<float>();
        params.out = out.as<void>();
        workspace = std::make_unique<Memory>(attention_workspace_bytes(params));
        std::memset(workspace->as<char>(), 0, workspace->bytes());
        params.workspace = workspace->as<void>();
        params.workspace_bytes = workspace->bytes();
    }
};

template <typename T>
void run_case(AttentionShape const& shape, int times = 1)
{
    AttentionCase<T>(shape).run_and_compare(times);
}

void run_both(AttentionShape const& shape)
{
    run_case<__half>(shape);
    run_case<__nv_bfloat16>(shape);
}

void heads_and_head_sizes_of_real_models(bool full)
{
    for (int head_dim :
        full ? std::vector<int>{8, 64, 80, 96, 128, 256} : std::vector<int>{80, 128})
        run_both({.head_dim = head_dim, .rotary_dim = head_dim, .past = {37}});
    run_both({.num_heads = 9, .num_kv_heads = 3, .past = {20}}); // SmolLM2-135M
    run_both({.num_heads = 8, .num_kv_heads = 1, .past = {20}}); // a group of 8, as in Llama 70B
    run_both({.num_heads = 3, .num_kv_heads = 3, .past = {20}}); // no groups
    run_case<__half>({.head_dim = 128, .rotary_dim = 96, .past = {9}}); // Phi-4-mini
    run_case<__half>({.head_dim = 64, .rotary_dim = 20, .past = {9}});  // no multiple of 8
    run_case<__half>({.rotary_dim = 0, .past = {9}});
    run_case<__half>({.past = {20}, .packed_qkv = false});
}

void past_lengths_of_each_row()
{
    run_both({.batch = 5, .past = {0, 1, 63, 15, 32}});
    run_both({.batch = 3, .seq = 3, .past = {0, 61, 17}});
    for (int seq : {1, 12})
        run_case<__half>({.batch = 3, .seq = seq, .past = {0, 40, 17}, .scattered = true});
}

void long_caches_are_split_and_added_up(bool full)
{
    for (int past : full ? std::vector<int>{0, 1, 511, 700} : std::vector<int>{300})
        run_case<__half>({.num_heads = 4, .num_kv_heads = 1, .capacity = 701, .past = {past}});
    run_case<__nv_bfloat16>({.seq = 2, .capacity = 512, .past = {300}}, 2); // its counters return
    run_case<__half>({.num_heads = 1, .num_kv_heads = 1, .capacity = 256, .past = {255}});
}

void windows_and_softcaps()
{
    for (int window : {1, 7, 64, 500})
        for (int seq : {1, 3})
            run_case<__half>({.seq = seq, .capacity = 256, .past = {200}, .window = window});
    run_case<__half>({.past = {40}, .softcap = 2.0});
}

void several_tokens_and_prefill(bool full)
{
    for (int seq : full ? std::vector<int>{2, 8, 9, 33} : std::vector<int>{3, 9})
        for (int past : {0, 21})
            run_both({.seq = seq, .num_heads = 6, .past = {past}});
    run_case<__half>({.batch = 2, .seq = 20, .past = {0, 30}, .window = 6});
}

// Keys whose scores grow along the cache, so that every warp's maximum moves with each of its steps.
void growing_scores_move_the_maximum()
{
    for (int splits : {1, 2})
    {
        AttentionShape shape{.num_heads = 6, .capacity = 400, .rotary_dim = 0, .past = {397}};
        shape.splits = splits;
        AttentionCase<__half> c(shape);
        for (int head = 0; head < shape.num_kv_heads; ++head)
            for (int key = 0; key < 397; ++key)
                for (int d = 0; d < shape.head_dim; ++d)
                {
                    double const grown =
                        0.01 * key * get<__half>(c.qkv, head * 3 * shape.head_dim + d);
                    put<__half>(c.k_cache, (head * 400UL + key) * shape.head_dim + d, grown);
                }
        c.run_and_compare();
    }
}

// Merges by counters and by clusters, splits that get no key, blocks of either size.
void variants_agree(bool full)
{
    for (int past : full ? std::vector<int>{0, 15, 250} : std::vector<int>{120})
        for (int splits : full ? std::vector<int>{1, 2, 3, 16, 32} : std::vector<int>{3, 8})
            for (Merge merge : {Merge::kCounters, Merge::kCluster})
                for (int warps : {4, 8})
                {
                    bool const power = (splits & (splits - 1)) == 0 && splits <= 16;
                    if (merge == Merge::kCluster && !power)
                        continue;
                    AttentionShape shape{.batch = 2, .capacity = 256, .past = {past, past / 2}};
                    shape.merge = merge;
                    shape.splits = splits;
                    shape.warps = warps;
                    run_case<__nv_bfloat16>(shape, 2);
                }
    for (Merge merge : {Merge::kCounters, Merge::kCluster})
        for (int seq : {1, 2, 5, 8})
            for (int head_dim : {64, 96, 128, 256})
                for (int ratio : {1, 3, 4, 16})
                {
                    AttentionShape shape{.seq = seq, .num_heads = ratio, .num_kv_heads = 1};
                    shape.head_dim = shape.rotary_dim = head_dim;
                    shape.past = {41};
                    shape.merge = merge;
                    shape.splits = 4;
                    shape.queries = head_dim > 128 || seq % 2 == 1 ? 0 : 16;
                    if (full || (seq + head_dim + ratio) % 5 == 0)
                        run_case<__half>(shape, 2);
                }
}

// What a tuner tries, by name; and a measured one is taken by launches of its shape alone.
void named_variants_agree()
{
    for (int seq : {1, 4})
        for (int variant = 0; variant < attention_variants(); ++variant)
        {
            AttentionParams named;
            check(take_attention_variant(named, variant), attention_variant_name(variant));
            AttentionShape shape{.seq = seq, .num_heads = 4, .capacity = 700, .past = {600}};
            shape.merge = named.merge;
            shape.splits = named.splits;
            shape.queries = named.queries;
            shape.warps = named.warps;
            run_case<__half>(shape, 2);
        }
    AttentionCase<__half> c({.num_heads = 4, .capacity = 701, .past = {600}});
    AttentionParams other = c.params;
    other.capacity = 702;
    size_t const before = attention_workspace_bytes(c.params);
    int counters = 0;
    while (std::strcmp(attention_variant_name(counters), "counters, 8 warps") != 0)
        ++counters;
    check(set_attention_variant(c.params, counters), "a variant is set");
    check(attention_workspace_bytes(c.params) > before, "it is taken");
    check(attention_workspace_bytes(other) == before, "not for another capacity");
    check(!set_attention_variant(c.params, attention_variants()), "no such variant");
    check(set_attention_variant(c.params, 0), "back to the shape's");
    check(attention_workspace_bytes(c.params) == before, "it is back");
}

// The caller promised room; where there is none the memory beyond must stay whole (guard pages).
void a_full_cache_is_not_overrun()
{
    for (int seq : {2, 12})
    {
        AttentionCase<__half> c({.seq = seq, .capacity = 32, .past = {31}});
        check(finished(launch_attention(c.params, nullptr)), "full cache: launch");
        c.lengths.as<int32_t>()[0] = 40;
        check(finished(launch_attention(c.params, nullptr)), "overfull cache: launch");
    }
}

void bad_parameters_are_refused_with_a_reason()
{
    struct
    {
        char const* word;
        std::function<void(AttentionParams&)> spoil;
    } const cases[] = {
        {"head_dim", [](AttentionParams& p) { p.head_dim = 60; }},
        {"num_heads", [](AttentionParams& p) { p.num_heads = 3; }},
        {"batch", [](AttentionParams& p) { p.batch = 0; }},
        {"capacity", [](AttentionParams& p) { p.seq = 65; }},
        {"rotary_dim", [](AttentionParams& p) { p.rotary_dim = 7; }},
        {"tables", [](AttentionParams& p) { p.rotary_cos = nullptr; }},
        {"window", [](AttentionParams& p) { p.softcap = -1.F; }},
        {"splits", [](AttentionParams& p) { p.splits = 33; }},
        {"warps", [](AttentionParams& p) { p.warps = 3; }},
        {"queries", [](AttentionParams& p) { p.queries = 24; }},
        {"multiples", [](AttentionParams& p) { p.q_stride += 4; }},
        {"stride", [](AttentionParams& p) { p.q_stride = 8; }},
        {"past_lengths", [](AttentionParams& p) { p.past_lengths = nullptr; }},
        {"aligned", [](AttentionParams& p) { p.out = nullptr; }},
        {"workspace",
            [](AttentionParams& p)
    {
        p.merge = Merge::kCounters;
        p.splits = 2;
        p.workspace_bytes = 0;
    }},
    };
    for (auto const& bad : cases)
    {
        AttentionCase<__half> c(AttentionShape{});
        bad.spoil(c.params);
        char const* text = explain_attention(c.params);
        check(text != nullptr && std::strstr(text, bad.word) != nullptr, bad.word);
        check(launch_attention(c.params, nullptr) == cudaErrorInvalidValue, bad.word);
    }
}
} // namespace

int main(int argc, char** argv)
{
    set_thread_order(argc > 1 ? std::atoi(argv[1]) : 0);
    heads_and_head_sizes_of_real_models(is_full(argc, argv));
    past_lengths_of_each_row();
    long_caches_are_split_and_added_up(is_full(argc, argv));
    windows_and_softcaps();
    growing_scores_move_the_maximum();
    variants_agree(is_full(argc, argv));
    named_variants_agree();
    several_tokens_and_prefill(is_full(argc, argv));
    a_full_cache_is_not_overrun();
    bad_parameters_are_refused_with_a_reason();
    return report("attention");
}
