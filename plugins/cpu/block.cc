#include "block.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>
#include <memory>

#include "prepared_rows.h"

namespace river
{
namespace
{

constexpr size_t kPart = 2 * kKeys; // keys whose weighted values are added up on their own

class Block : public PhasedWork
{
public:
    Block(Kernels const& kernels, BlockWeights const& weights, BlockInputs const& in,
        BlockOutputs const& out, size_t threads, Scratch& scratch)
        : kernels_(kernels)
        , w_(weights)
        , in_(in)
        , out_(out)
        , rows_(in.batch * in.seq)
        , scratch_(scratch)
        , use_river_(scratch.use_river)
        , wanted_(scratch.wanted)
        , prepared_(kernels, weights.rounds, kCoarse, rows_,
              std::max({w_.o.inputs, w_.hidden, w_.intermediate()}), w_.group_size, scratch)
        , attended_(in.attended)
        , normed_(scratch.floats(3, rows_ * w_.hidden))
        , active_(scratch.floats(4, rows_ * w_.intermediate()))
        , scores_(scratch.floats(5, rows_))
        , projected_(scratch.floats(11, w_.out_norm || w_.down_norm ? rows_ * w_.hidden : 0))
    {
        use_river_.resize(rows_);
        choose_rows();
        if (w_.o.present())
        {
            if (in_.attended == nullptr)
                plan_attention(threads);
            choose_banks(w_.layer, w_.o, in_.exit_layer);
            char const* const wanted = wanted_.data();
            prepared_.list(w_.o, attended_, use_river_, lists(Scratch::kO), wanted);
            prepared_.list(w_.gate_up, normed_, use_river_, lists(Scratch::kGateUp), wanted);
            prepared_.list(w_.down, active_, use_river_, lists(Scratch::kDown), wanted);
            step("merge", &Block::prepare_o, rows_, kRowChunk);
            step_linear("o", &Block::run_o, w_.o, Scratch::kO, threads);
            step("norm_mlp", &Block::norm_mlp, rows_, kRowChunk);
            step_linear("gate_up", &Block::run_gate_up, w_.gate_up, Scratch::kGateUp, threads);
            step("round_down", &Block::prepare_down, rows_, kRowChunk);
            step_linear("down", &Block::run_down, w_.down, Scratch::kDown, threads);
        }
        if (rows_ <= kRowChunk)
        {
            step("gate", &Block::decide_and_norm, rows_, rows_);
        }
        else
        {
            if (w_.o.present())
                step("score", &Block::score, rows_, kRowChunk);
            step("decide", &Block::decide, rows_, rows_);
            if (w_.qkv.present())
                step("norm_qkv", &Block::norm_qkv, rows_, kRowChunk);
        }
        if (w_.qkv.present())
            step_linear("qkv", &Block::run_qkv, w_.qkv, Scratch::kQkv, threads);
    }

    void chunk(size_t phase, size_t index) noexcept override
    {
        Step const& step = steps_[phase];
        if (step.linear != nullptr)
            return (this->*step.product)(linear_chunk(*step.linear, rows_, step.each, index));
        size_t const first = index * step.each;
        (this->*step.work)(first, std::min(step.each, step.items - first));
    }

    char const* name(size_t phase) const override
    {
        return steps_[phase].name;
    }
    int32_t layer(size_t phase) const override
    {
        Step const& step = steps_[phase];
        return w_.layer + (step.work == &Block::norm_qkv || step.linear == &w_.qkv);
    }
    size_t bytes(size_t phase, size_t index) const override
    {
        Step const& step = steps_[phase];
        if (step.linear != nullptr)
            return step.linear->read_bytes(
                lists(step.rows), linear_chunk(*step.linear, rows_, step.each, index));
        size_t const first = index * step.each, count = std::min(step.each, step.items - first);
        if (step.work == &Block::attend)
            return attended_bytes(first, count);
        bool const norms = step.work == &Block::norm_mlp || step.work == &Block::norm_qkv
            || (step.work == &Block::decide_and_norm && w_.qkv.present());
        return norms && first == 0 ? w_.hidden * sizeof(float) : 0;
    }

private:
    using Work = void (Block::*)(size_t first, size_t count);
    using Product = void (Block::*)(LinearChunk const& chunk);
    struct Step // of some items, or of a linear and its rows
    {
        char const* name;
        size_t each;
        Work work = nullptr;
        size_t items = 0;
        Product product = nullptr;
        Linear const* linear = nullptr;
        Scratch::Of rows = Scratch::kO;
    };

    void step(char const* name, Work work, size_t items, size_t each)
    {
        steps_[num_steps_++] = {name, each, work, items};
        add_phase(chunks(items, each));
    }
    void step_linear(
        char const* name, Product product, Linear const& linear, Scratch::Of rows, size_t threads)
    {
        size_t const each = chunk_panels(linear, rows_, threads);
        steps_[num_steps_++] = {name, each, nullptr, 0, product, &linear, rows};
        add_phase(linear_chunks(linear, rows_, each));
    }

    LinearRows& lists(Scratch::Of linear) const
    {
        return scratch_.rows[linear];
    }

    // Those whose h_out somebody reads.
    void choose_rows()
    {
        wanted_.assign(rows_, in_.wanted == nullptr);
        for (size_t batch = 0; batch < in_.batch; ++batch)
        {
            for (size_t i = 0; in_.wanted != nullptr && i < in_.num_wanted; ++i)
                wanted_[batch * in_.seq + static_cast<size_t>(in_.wanted[i])] = 1;
        }
    }

    void choose_banks(int32_t layer, Linear const& linear, int32_t const* exit_layer)
    {
        bool const backbone = linear.banks[kBackbone].present();
        bool const both = backbone && linear.banks[kRiver].present();
        for (size_t row = 0; row < rows_; ++row)
        {
            use_river_[row] = both ? exit_layer[row] < layer && !in_.pinned[layer - 1] : !backbone;
        }
    }

    // A KV head's queries go in blocks, and their keys in parts of kPart. Few blocks have a chunk
    // for each part; many go through theirs in turn. The sums are the same, to the bit.
    void plan_attention(size_t threads)
    {
        size_t const heads = rows_ * w_.num_heads, dim = w_.head_dim;
        size_t const shared = in_.seq * w_.num_heads / w_.num_kv_heads;
        size_t const past = *std::max_element(in_.past_lengths, in_.past_lengths + in_.batch);
        size_t const parts = chunks(past + in_.seq, kPart);
        // A few keys are soon read again: then threads that all have work count for more.
        size_t const least = in_.batch * w_.num_kv_heads * chunks(shared, kMaxQueries) * parts;
        bool const few = least < 4 * threads;
        together_ = few ? 1 : kMaxQueries;
        blocks_ = chunks(shared, together_);
        size_t const items = in_.batch * w_.num_kv_heads * blocks_;
        split_ = items < 8 * threads ? parts : 1;
        queries_ = scratch_.floats(6, heads * dim);
        attended_ = result_ = scratch_.floats(7, heads * dim);
        rotated_ = scratch_.floats(8, rows_ * dim);
        size_t const kept =
            std::max<size_t>(2, split_); // the second: of a part, before it is merged
        partial_ = scratch_.floats(9, (kept - 1) * heads * dim);
        found_ = scratch_.floats(10, 2 * kept * heads);
        step("append", &Block::append, rows_, kRowChunk);
        // From four blocks on, widened keys are used often enough.
        widens_ = split_ == 1 && w_.window == 0 && blocks_ >= 4 && kernels_.widened_multiple != 0
            && dim % kernels_.widened_multiple == 0;
        step("attend", &Block::attend, items * split_,
            std::clamp<size_t>(items * split_ / (8 * threads), 1, kMaxBlocks));
    }

    // Keys and values of the rows to the cache; their queries, turned and scaled, to queries_.
    void append(size_t first, size_t count)
    {
        size_t const dim = w_.head_dim, heads = w_.num_heads, kv_heads = w_.num_kv_heads;
        for (size_t row = first; row < first + count; ++row)
        {
            size_t const batch = row / in_.seq, slot = in_.past_lengths[batch] + row % in_.seq;
            float const* x = in_.qkv + row * (heads + 2 * kv_heads) * dim;
            float* turned = rotated_ + row * dim;
            for (size_t head = 0; head < heads; ++head, x += dim)
            {
                float* query = queries_ + (row * heads + head) * dim;
                rotate(normed_head(x, w_.q_norm, turned), slot, w_.scale, query);
            }
            for (size_t head = 0; head < kv_heads; ++head, x += dim)
            {
                rotate(normed_head(x, w_.k_norm, turned), slot, 1.0f, turned);
                keep(turned, in_.k_cache.from(cache_at(batch, head, slot)));
            }
            for (size_t head = 0; head < kv_heads; ++head, x += dim)
                keep(x, in_.v_cache.from(cache_at(batch, head, slot)));
        }
    }

    // A head's key or value in the form that the cache has.
    void keep(float const* x, CachedRows at) const
    {
        if (at.half != nullptr)
        {
            kernels_.narrow(x, w_.head_dim, at.half);
        }
        else if (at.codes != nullptr)
        {
            float scale, sum;
            kernels_.round_row(x, w_.head_dim, w_.head_dim, at.codes, &scale, &sum);
            std::memcpy(at.codes + w_.head_dim, &scale, sizeof(scale));
        }
        else
        {
            std::copy(x, x + w_.head_dim, at.single);
        }
    }

    size_t cache_width() const
    {
        return in_.k_cache.codes != nullptr ? cached_width<int8_t>(w_.head_dim) : w_.head_dim;
    }
    size_t cache_at(size_t batch, size_t kv_head, size_t slot) const
    {
        return ((batch * w_.num_kv_heads + kv_head) * in_.cache_length + slot) * cache_width();
    }

    // x [head_dim] itself where the model has no such norm, else in `out`.
    float const* normed_head(float const* x, float const* weight, float* out) const
    {
        if (weight == nullptr)
            return x;
        norm(x, weight, w_.head_dim, out);
        return out;
    }

    // out may be x.
    void rotate(float const* x, size_t position, float scale, float* out) const
    {
        size_t const half = w_.rotary / 2;
        float const *cos = w_.cos + position * half, *sin = w_.sin + position * half;
        for (size_t i = 0; i < half; ++i)
        {
            float const a = x[i], b = x[half + i];
            out[i] = (a * cos[i] - b * sin[i]) * scale;
            out[half + i] = (b * cos[i] + a * sin[i]) * scale;
        }
        for (size_t i = w_.rotary; i < w_.head_dim; ++i)
            out[i] = x[i] * scale;
    }

    // Items are numbered by batch, KV head, block and part, so that those of a chunk share keys.
    void attend(size_t first, size_t count)
    {
        if (widens_)
            return attend_widened(first, count);
        for (size_t item = first; item < first + count; ++item)
        {
            size_t const part = item % split_, block = item / split_ % blocks_;
            size_t const pair = item / split_ / blocks_;
            size_t const kv_head = pair % w_.num_kv_heads, batch = pair / w_.num_kv_heads;
            if (!wants(batch, block))
                continue;
            if (split_ > 1)
            {
                attend_part(batch, kv_head, block, part, part);
                continue;
            }
            size_t const past = in_.past_lengths[batch];
            size_t const each = w_.num_heads / w_.num_kv_heads;
            size_t const end = std::min(in_.seq * each, (block + 1) * together_);
            attend_part(batch, kv_head, block, 0, 0);
            size_t const oldest = oldest_seen(past + block * together_ / each + 1);
            for (size_t p = std::max<size_t>(1, oldest / kPart);
                p * kPart < past + (end - 1) / each + 1; ++p)
            {
                attend_part(batch, kv_head, block, p, 1);
                for (size_t i = block * together_; i < end; ++i)
                    merge(query(batch, kv_head, i), 1);
            }
            for (size_t i = block * together_; i < end; ++i)
                finish(query(batch, kv_head, i));
        }
    }

    // Whether a block has queries of a row that is read.
    bool wants(size_t batch, size_t block) const
    {
        size_t const each = w_.num_heads / w_.num_kv_heads;
        size_t const end = std::min(in_.seq * each, (block + 1) * together_);
        auto const rows = wanted_.begin() + static_cast<ptrdiff_t>(batch * in_.seq);
        auto const first = static_cast<ptrdiff_t>(block * together_ / each);
        auto const last = static_cast<ptrdiff_t>((end - 1) / each);
        return std::find(rows + first, rows + last + 1, 1) != rows + last + 1;
    }

    // The first key that a query sees whose own is number `count`, from 1.
    size_t oldest_seen(size_t count) const
    {
        return w_.window != 0 && count > w_.window ? count - w_.window : 0;
    }

    // Of the cache, once a KV head: its last block sees all keys.
    size_t attended_bytes(size_t first, size_t count) const
    {
        size_t const slot = 2 * w_.head_dim
            * (in_.k_cache.half != nullptr ? sizeof(*in_.k_cache.half) : sizeof(float));
        size_t slots = 0;
        for (size_t item = first; item < first + count; ++item)
        {
            if (item / split_ % blocks_ + 1 != blocks_)
                continue;
            size_t const batch = item / split_ / blocks_ / w_.num_kv_heads;
            size_t const past = in_.past_lengths[batch], keys = past + in_.seq;
            size_t const first = oldest_seen(past + 1);
            size_t const start = split_ == 1 ? first : std::max(first, item % split_ * kPart);
            size_t const end = split_ == 1 ? keys : std::min(keys, (item % split_ + 1) * kPart);
            slots += start < end ? end - start : 0;
        }
        return slots * slot;
    }

    // Place [batch, seq, num_heads] of a KV head's query: by token, then by head.
    size_t query(size_t batch, size_t kv_head, size_t index) const
    {
        size_t const each = w_.num_heads / w_.num_kv_heads;
        return (batch * in_.seq + index / each) * w_.num_heads + kv_head * each + index % each;
    }

    // What a part's sums are kept in: those of the first where the result will be.
    float* sums(size_t place, size_t kept) const
    {
        size_t const dim = w_.head_dim;
        return kept == 0 ? result_ + place * dim
                         : partial_ + ((kept - 1) * rows_ * w_.num_heads + place) * dim;
    }
    float* found(size_t place, size_t kept) const // the largest score and the weights' sum
    {
        return found_ + 2 * (kept * rows_ * w_.num_heads + place);
    }

    // A block's queries, for `most` keys from `key` on.
    void look_from(Queries& queries, size_t batch, size_t kv_head, size_t block, size_t key,
        size_t most, size_t kept) const
    {
        size_t const dim = w_.head_dim, each = w_.num_heads / w_.num_kv_heads;
        size_t const start = block * together_;
        queries.size = std::min(together_, in_.seq * each - start);
        for (size_t i = 0; i < queries.size; ++i)
        {
            size_t const place = query(batch, kv_head, start + i);
            size_t const seen = in_.past_lengths[batch] + (start + i) / each + 1;
            queries.q[i] = queries_ + place * dim;
            size_t const least = oldest_seen(seen);
            queries.firsts[i] = std::min(most, least > key ? least - key : 0);
            queries.counts[i] = std::min(most, seen > key ? seen - key : 0);
            if (queries.firsts[i] == queries.counts[i])
                queries.firsts[i] = queries.counts[i] = 0;
            queries.out[i] = sums(place, kept);
        }
    }
    void keep_found(
        Queries const& queries, size_t batch, size_t kv_head, size_t block, size_t kept) const
    {
        for (size_t i = 0; i < queries.size; ++i)
        {
            float* of = found(query(batch, kv_head, block * together_ + i), kept);
            of[0] = queries.largest[i];
            of[1] = queries.total[i];
        }
    }

    void attend_part(size_t batch, size_t kv_head, size_t block, size_t part, size_t kept) const
    {
        Queries queries;
        size_t const key = part * kPart;
        look_from(queries, batch, kv_head, block, key, kPart, kept);
        // Many rows find keys where the rows before them left them: in a cache.
        size_t const slots = in_.past_lengths[batch] + in_.seq;
        queries.ahead = rows_ <= kRowChunk && slots > key ? slots - key : 0;
        size_t const at = cache_at(batch, kv_head, key);
        kernels_.attend(queries, in_.k_cache.from(at), in_.v_cache.from(at), w_.head_dim);
        keep_found(queries, batch, kv_head, block, kept);
    }

    // As `attend`, with a step's keys widened for all blocks of the chunk.
    void attend_widened(size_t first, size_t count) const
    {
        for (size_t item = first; item < first + count;)
        {
            size_t const pair = item / blocks_, block = item % blocks_;
            size_t const batch = pair / w_.num_kv_heads;
            size_t const most = std::min(first + count - item, blocks_ - block);
            size_t blocks = 0; // that follow each other
            while (blocks < most && wants(batch, block + blocks))
                ++blocks;
            if (blocks != 0)
                attend_blocks(batch, pair % w_.num_kv_heads, block, blocks);
            item += std::max<size_t>(1, blocks);
        }
    }

    void attend_blocks(size_t batch, size_t kv_head, size_t first, size_t count) const
    {
        size_t const dim = w_.head_dim, each = w_.num_heads / w_.num_kv_heads;
        thread_local std::vector<float> buffer;
        buffer.resize(WidenedKeys::floats(dim) + kPanel);
        void* aligned = buffer.data();
        size_t space = buffer.size() * sizeof(float);
        std::align(
            kPanel * sizeof(float), WidenedKeys::floats(dim) * sizeof(float), aligned, space);
        WidenedKeys const widened = WidenedKeys::in(static_cast<float*>(aligned), dim);
        size_t const past = in_.past_lengths[batch];
        auto const seen = [&](size_t block) // by the block's last query
        {
            size_t const end = std::min(in_.seq * each, (block + 1) * together_);
            return past + (end - 1) / each + 1;
        };
        size_t const all = seen(first + count - 1);
        Queries blocks[kMaxBlocks];
        size_t seeing = 0; // the first block that sees keys from `key` on
        for (size_t key = 0; key < all; key += kKeys)
        {
            size_t const kept = key < kPart ? 0 : 1, at = cache_at(batch, kv_head, key);
            kernels_.widen(in_.k_cache.from(at), in_.v_cache.from(at), std::min(kKeys, all - key),
                dim, widened);
            while (seen(first + seeing) <= key)
                ++seeing;
            for (size_t b = seeing; b < count; ++b)
            {
                look_from(blocks[b], batch, kv_head, first + b, key, kKeys, kept);
                if (key % kPart == 0)
                    begin(blocks[b], dim);
            }
            kernels_.attend_widened(
                blocks + seeing, count - seeing, widened, in_.k_cache.codes != nullptr, dim);
            for (size_t b = seeing; b < count; ++b)
            {
                size_t const block = first + b;
                if ((key + kKeys) % kPart != 0 && key + kKeys < seen(block))
                    continue;
                keep_found(blocks[b], batch, kv_head, block, kept);
                for (size_t i = 0; kept == 1 && i < blocks[b].size; ++i)
                    merge(query(batch, kv_head, block * together_ + i), 1);
            }
        }
        for (size_t b = 0; b < count; ++b)
        {
            for (size_t i = 0; i < blocks[b].size; ++i)
                finish(query(batch, kv_head, (first + b) * together_ + i));
        }
    }

    // Queries that have found nothing yet.
    static void begin(Queries& queries, size_t dim)
    {
        for (size_t i = 0; i < queries.size; ++i)
        {
            std::fill(queries.out[i], queries.out[i] + dim, 0.0f);
            queries.largest[i] = -INFINITY;
            queries.total[i] = 0.0f;
        }
    }

    // Adds a part's sums to the result's, on the scale of the larger score.
    void merge(size_t place, size_t kept) const
    {
        float const *more = sums(place, kept), *of = found(place, kept);
        float *result = sums(place, 0), *so_far = found(place, 0);
        if (of[1] == 0.0f) // it saw no key
            return;
        float const largest = std::max(of[0], so_far[0]);
        float const a = so_far[0] == largest ? 1.0f : std::exp(so_far[0] - largest);
        float const b = of[0] == largest ? 1.0f : std::exp(of[0] - largest);
        for (size_t d = 0; d < w_.head_dim; ++d)
            result[d] = result[d] * a + more[d] * b;
        so_far[0] = largest;
        so_far[1] = so_far[1] * a + of[1] * b;
    }

    void finish(size_t place) const
    {
        float* result = sums(place, 0);
        for (size_t d = 0; d < w_.head_dim; ++d)
            result[d] /= found(place, 0)[1];
    }

    void prepare_o(size_t first, size_t count)
    {
        bool const merges = in_.attended == nullptr && split_ > 1;
        for (size_t row = first; merges && row < first + count; ++row)
        {
            for (size_t head = 0; wanted_[row] && head < w_.num_heads; ++head)
            {
                size_t const at = row * w_.num_heads + head;
                for (size_t part = 1; part < split_; ++part)
                    merge(at, part);
                finish(at);
            }
        }
        prepare(w_.o, attended_, first, count);
    }
    void prepare_down(size_t first, size_t count)
    {
        prepare(w_.down, active_, first, count);
    }

    void prepare(Linear const& linear, float const* x, size_t first, size_t count) const
    {
        for (size_t row = first; row < first + count; ++row)
        {
            if (wanted_[row])
                prepared_.prepare(linear, use_river_[row] != 0, x + row * linear.inputs, row);
        }
    }

    void run_o(LinearChunk const& chunk)
    {
        add_to_residual(w_.o, w_.out_norm, lists(Scratch::kO), in_.h_in, chunk);
    }
    void run_down(LinearChunk const& chunk)
    {
        add_to_residual(w_.down, w_.down_norm, lists(Scratch::kDown), out_.h_out, chunk);
    }

    // h_out = residual + linear(x); linear(x) alone, to projected_, where it is normed first.
    void add_to_residual(Linear const& linear, float const* norm, LinearRows const& rows,
        float const* residual, LinearChunk const& chunk) const
    {
        if (norm != nullptr)
        {
            apply(kernels_, linear, rows, chunk, [&](size_t row, float const* values)
            { store(values, chunk, w_.hidden, projected_ + row * w_.hidden); });
            return;
        }
        size_t const start = chunk.first * kPanel;
        size_t const columns = std::min(w_.hidden, start + chunk.count * kPanel) - start;
        apply(kernels_, linear, rows, chunk, [&](size_t row, float const* values)
        {
            float const* before = residual + row * w_.hidden + start;
            float* after = out_.h_out + row * w_.hidden + start;
            for (size_t i = 0; i < columns; ++i)
                after[i] = before[i] + values[i];
        });
    }

    void norm(float const* x, float const* weight, size_t size, float* out) const
    {
        float const mean = kernels_.dot(x, x, size) / static_cast<float>(size);
        float const scale = 1.0f / std::sqrt(mean + w_.epsilon);
        for (size_t i = 0; i < size; ++i)
            out[i] = x[i] * scale * weight[i];
    }

    // The row's h_out = residual + norm(projected_), where a norm comes before the sum.
    void add_normed(float const* weight, float const* residual, size_t row) const
    {
        if (weight == nullptr)
            return;
        float *projected = projected_ + row * w_.hidden, *after = out_.h_out + row * w_.hidden;
        norm(projected, weight, w_.hidden, projected);
        for (size_t i = 0; i < w_.hidden; ++i)
            after[i] = residual[row * w_.hidden + i] + projected[i];
    }

    void norm_mlp(size_t first, size_t count)
    {
        for (size_t row = first; row < first + count; ++row)
        {
            if (!wanted_[row])
                continue;
            add_normed(w_.out_norm, in_.h_in, row);
            norm(out_.h_out + row * w_.hidden, w_.post_norm, w_.hidden, normed_ + row * w_.hidden);
        }
        prepare(w_.gate_up, normed_, first, count);
    }

    void run_gate_up(LinearChunk const& chunk)
    {
        size_t const size = w_.intermediate();
        apply(kernels_, w_.gate_up, lists(Scratch::kGateUp), chunk,
            [&](size_t row, float const* values)
        {
            for (size_t p = 0; p < chunk.count; p += 2, values += 2 * kPanel)
            {
                size_t const start = (chunk.first + p) / 2 * kPanel;
                (w_.gelu ? kernels_.gelu_mul : kernels_.silu_mul)(values, values + kPanel,
                    std::min(kPanel, size - start), active_ + row * size + start);
            }
        });
    }

    void score(size_t first, size_t count)
    {
        for (size_t row = first; row < first + count; ++row)
        {
            if (!wanted_[row])
                continue;
            add_normed(w_.down_norm, out_.h_out, row);
            scores_[row] = cosine(row);
        }
    }

    float cosine(size_t row) const
    {
        if (w_.layer == w_.num_layers || in_.tau[w_.layer - 1] == INFINITY)
            return 0.0f; // not read
        float const* a = in_.use_directions ? in_.directions + (w_.layer - 1) * w_.hidden
                                            : in_.h_in + row * w_.hidden;
        float const* b = out_.h_out + row * w_.hidden;
        float const squares = kernels_.dot(a, a, w_.hidden) * kernels_.dot(b, b, w_.hidden);
        return kernels_.dot(a, b, w_.hidden) / std::max(std::sqrt(squares), 1e-30f);
    }

    // exit_layer of every row, and with it the banks of the next layer.
    void decide(size_t, size_t)
    {
        if (w_.layer == 0)
        {
            std::fill(out_.exit_layer, out_.exit_layer + rows_, kNever);
        }
        else if (w_.layer == w_.num_layers)
        {
            for (size_t row = 0; row < rows_; ++row)
            {
                out_.exit_layer[row] = std::min(in_.exit_layer[row], w_.num_layers);
            }
        }
        else
        {
            widen_scope();
            for (size_t row = 0; row < rows_; ++row)
            {
                bool const passed = scores_[row] > in_.tau[w_.layer - 1];
                out_.exit_layer[row] = std::min(in_.exit_layer[row], passed ? w_.layer : kNever);
            }
        }
        if (w_.qkv.present())
        {
            choose_banks(w_.layer + 1, w_.qkv, out_.exit_layer);
            prepared_.list(w_.qkv, normed_, use_river_, lists(Scratch::kQkv));
        }
    }

    // The smallest score of a sequence or of the batch stands for all of it.
    void widen_scope() const
    {
        if (in_.gate_scope == 0)
            return;
        size_t const each = in_.gate_scope == 1 ? in_.seq : rows_;
        for (size_t start = 0; start < rows_; start += each)
        {
            float const least = *std::min_element(scores_ + start, scores_ + start + each);
            std::fill(scores_ + start, scores_ + start + each, least);
        }
    }

    void norm_qkv(size_t first, size_t count)
    {
        float const* h = w_.layer == 0 ? in_.h_in : out_.h_out;
        for (size_t row = first; row < first + count; ++row)
        {
            norm(h + row * w_.hidden, w_.input_norm, w_.hidden, normed_ + row * w_.hidden);
        }
        prepare(w_.qkv, normed_, first, count);
    }

    void decide_and_norm(size_t first, size_t count)
    {
        if (w_.o.present())
            score(first, count);
        decide(first, count);
        if (w_.qkv.present())
            norm_qkv(first, count);
    }

    void run_qkv(LinearChunk const& chunk)
    {
        apply(kernels_, w_.qkv, lists(Scratch::kQkv), chunk, [&](size_t row, float const* values)
        { store(values, chunk, w_.qkv.outputs, out_.qkv + row * w_.qkv.outputs); });
    }

    Kernels const& kernels_;
    BlockWeights const& w_;
    BlockInputs const& in_;
    BlockOutputs const& out_;
    size_t const rows_;
    Scratch& scratch_;
    std::vector<char>&use_river_, &wanted_; // of each row
    PreparedRows const prepared_;
    float const* attended_;
    float *const normed_, *const active_, *const scores_, *const projected_;
    float *queries_ = nullptr, *result_ = nullptr, *rotated_ = nullptr;
    float *partial_ = nullptr, *found_ = nullptr;
    size_t blocks_ = 0, split_ = 1; // of a KV head's queries; chunks of a block
    size_t together_ = kMaxQueries; // queries of a block
    bool widens_ = false;           // the keys of a chunk's blocks
    Step steps_[kMaxPhases];
    size_t num_steps_ = 0;
};

} // namespace

void run_block(Kernels const& kernels, BlockWeights const& weights, BlockInputs const& in,
    BlockOutputs const& out, Pool const& pool, Scratch& scratch)
{
    if (in.batch * in.seq != 0)
        Block(kernels, weights, in, out, pool.threads, scratch)
            .run(pool, in.batch * in.seq <= kRowChunk);
}

} // namespace river
