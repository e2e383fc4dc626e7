#include "block.h"
#include "prepared_rows.h"

namespace river
{
namespace
{

class OneLinear : public PhasedWork
{
public:
    OneLinear(Kernels const& kernels, Linear const& linear, bool rounds, bool const* use_river,
        float const* x, size_t rows, float* y, size_t threads, Scratch& scratch)
        : kernels_(kernels)
        , linear_(linear)
        , x_(x)
        , rows_(rows)
        , y_(y)
        , lists_(scratch.rows[0])
        , prepared_(kernels, rounds, kCoarse, rows, linear.inputs, linear.group_size(), scratch)
        , use_river_(scratch.use_river)
        , each_(chunk_panels(linear, rows, threads))
    {
        if (use_river != nullptr)
        {
            use_river_.assign(use_river, use_river + rows);
        }
        else
        {
            use_river_.assign(rows, !linear.banks[kBackbone].present());
        }
        prepared_.list(linear, x, use_river_, lists_);
        add_phase(chunks(rows, kRowChunk));
        add_phase(linear_chunks(linear, rows, each_));
    }

    void chunk(size_t phase, size_t index) noexcept override
    {
        if (phase == 0)
        {
            for (size_t row = index * kRowChunk; row < std::min(rows_, (index + 1) * kRowChunk);
                ++row)
            {
                prepared_.prepare(linear_, use_river_[row], x_ + row * linear_.inputs, row);
            }
            return;
        }
        LinearChunk const part = linear_chunk(linear_, rows_, each_, index);
        apply(kernels_, linear_, lists_, part, [&](size_t row, float const* values)
        { store(values, part, linear_.outputs, y_ + row * linear_.outputs); });
    }

    char const* name(size_t phase) const override
    {
        return phase == 0 ? "round" : "linear";
    }
    int32_t layer(size_t) const override
    {
        return 0;
    }
    size_t bytes(size_t phase, size_t index) const override
    {
        return phase == 0 ? 0
                          : linear_.read_bytes(lists_, linear_chunk(linear_, rows_, each_, index));
    }

private:
    Kernels const& kernels_;
    Linear const& linear_;
    float const* const x_;
    size_t const rows_;
    float* const y_;
    LinearRows& lists_;
    PreparedRows const prepared_;
    std::vector<char>& use_river_;
    size_t const each_;
};

} // namespace

void run_linear(Kernels const& kernels, Linear const& linear, bool rounds, bool const* use_river,
    float const* x, size_t rows, float* y, Pool const& pool, Scratch& scratch)
{
    if (rows == 0)
        return;
    OneLinear(kernels, linear, rounds, use_river, x, rows, y, pool.threads, scratch)
        .run(pool, rows <= kRowChunk);
}

} // namespace river
