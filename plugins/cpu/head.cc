#include "head.h"

#include "prepared_rows.h"

namespace river
{
namespace
{

class HeadWork : public PhasedWork
{
public:
    HeadWork(Kernels const& kernels, Head const& head, int32_t const* exit_layers,
        int32_t num_layers, float const* x, size_t rows, float* logits, size_t threads,
        Scratch& scratch)
        : kernels_(kernels)
        , head_(head)
        , x_(x)
        , logits_(logits)
        , rows_(rows)
        , left_(scratch.use_river)
        , prepared_(kernels, head.rounds, 0.0f, 2 * rows, head.all.inputs,
              std::min(head.all.group_size(), head.rare.group_size()), scratch)
        , every_(scratch.rows[0])
        , stayed_(scratch.rows[1])
        , gone_(scratch.rows[2])
        , number_(head.all.banks[kBackbone].present() ? kBackbone : kRiver)
    {
        left_.resize(rows);
        for (LinearRows* lists : {&every_, &stayed_, &gone_})
        {
            lists->clear();
            lists->rounds = head.rounds;
        }
        for (size_t row = 0; row < rows; ++row)
        {
            float const* at = x + row * head.all.inputs;
            left_[row] = head.rare.present() && exit_layers[row] < num_layers;
            prepared_.add(head.all, number_, at, row, row, every_);
            if (left_[row])
                prepared_.add(head.rare, kRiver, at, row, rows + row, gone_);
            else
                prepared_.add(head.all, number_, at, row, row, stayed_);
        }
        size_t const frequent = head.rare.present() ? head.frequent / kPanel : head.all.panels;
        plan(head.all, 0, frequent, 0, every_, threads);
        if (!stayed_.banks[number_].numbers.empty())
            plan(head.all, frequent, head.all.panels, 0, stayed_, threads);
        if (!gone_.banks[kRiver].numbers.empty())
            plan(head.rare, 0, head.rare.panels, head.frequent, gone_, threads);
        add_phase(chunks(rows, kRowChunk));
        add_phase(num_chunks_);
    }

    void chunk(size_t phase, size_t index) noexcept override
    {
        if (phase == 0)
            return prepare(index * kRowChunk, std::min(rows_, (index + 1) * kRowChunk));
        Part const& part = part_of(index);
        LinearChunk const chunk = part.chunk(rows_, index);
        size_t const outputs = head_.all.outputs;
        apply(kernels_, *part.linear, *part.rows, chunk, [&](size_t row, float const* values)
        { store(values, chunk, part.linear->outputs, logits_ + row * outputs + part.offset); });
    }

    char const* name(size_t phase) const override
    {
        return phase == 0 ? "round_head" : "head";
    }
    int32_t layer(size_t) const override
    {
        return 0;
    }
    size_t bytes(size_t phase, size_t index) const override
    {
        if (phase == 0)
            return 0;
        Part const& part = part_of(index);
        return part.linear->read_bytes(*part.rows, part.chunk(rows_, index));
    }

private:
    // Some panels of a linear, for some of the rows; `before` chunks come first.
    struct Part
    {
        Linear const* linear;
        LinearRows const* rows;
        size_t begin, end, offset, each, before;

        LinearChunk chunk(size_t all_rows, size_t index) const
        {
            size_t const blocks = chunks(all_rows, kChunkRows), number = index - before;
            size_t const first = begin + number / blocks * each;
            return {first, std::min(each, end - first), number % blocks * kChunkRows};
        }
    };

    void plan(Linear const& linear, size_t begin, size_t end, size_t offset, LinearRows const& rows,
        size_t threads)
    {
        size_t const each = chunk_panels(linear, rows_, threads);
        parts_[num_parts_++] = {&linear, &rows, begin, end, offset, each, num_chunks_};
        num_chunks_ += chunks(end - begin, each) * chunks(rows_, kChunkRows);
    }

    Part const& part_of(size_t index) const
    {
        size_t at = num_parts_ - 1;
        while (parts_[at].before > index)
            --at;
        return parts_[at];
    }

    void prepare(size_t first, size_t end) const
    {
        for (size_t row = first; row < end; ++row)
        {
            float const* at = x_ + row * head_.all.inputs;
            prepared_.prepare(head_.all, number_ == kRiver, at, row);
            if (left_[row])
                prepared_.prepare(head_.rare, true, at, rows_ + row);
        }
    }

    Kernels const& kernels_;
    Head const& head_;
    float const* const x_;
    float* const logits_;
    size_t const rows_;
    std::vector<char>& left_;
    PreparedRows const prepared_; // of the head, then of its river
    LinearRows &every_, &stayed_, &gone_;
    size_t const number_; // of the head's bank
    Part parts_[3];
    size_t num_parts_ = 0, num_chunks_ = 0;
};

} // namespace

void run_head(Kernels const& kernels, Head const& head, int32_t const* exit_layers,
    int32_t num_layers, float const* x, size_t rows, float* logits, Pool const& pool,
    Scratch& scratch)
{
    if (rows == 0)
        return;
    HeadWork(kernels, head, exit_layers, num_layers, x, rows, logits, pool.threads, scratch)
        .run(pool, rows <= kRowChunk);
}

} // namespace river
