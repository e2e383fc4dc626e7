// How the work of a linear is cut into chunks, and its rows in the form that their bank takes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "block.h"

namespace river
{

// Up to so many times a row's root mean square, 8 bits do for a group of a backbone's inputs in a layer.
// What that costs and saves: docs/decisions/default-precision.md.
constexpr float kCoarse = 8.0f;

constexpr size_t kRowChunk = 8; // rows of a chunk where rows are worked on one by one

inline size_t chunks(size_t items, size_t each)
{
    return (items + each - 1) / each;
}

// A number of panels, even, that gives each thread some chunks: one held up holds up few.
inline size_t chunk_panels(Linear const& linear, size_t rows, size_t threads)
{
    size_t const each = chunks(linear.panels * chunks(rows, kChunkRows), 6 * threads);
    return std::min(each + each % 2, kMaxChunkPanels);
}

inline size_t linear_chunks(Linear const& linear, size_t rows, size_t each)
{
    return chunks(linear.panels, each) * chunks(rows, kChunkRows);
}

// Chunks of the same panels follow each other.
inline LinearChunk linear_chunk(Linear const& linear, size_t rows, size_t each, size_t index)
{
    size_t const parts = chunks(rows, kChunkRows), first = index / parts * each;
    return {first, std::min(each, linear.panels - first), index % parts * kChunkRows};
}

// Writes as many of the panels' values as the output has columns.
inline void store(float const* values, LinearChunk const& chunk, size_t columns, float* out)
{
    size_t const start = chunk.first * kPanel;
    size_t const end = std::min(columns, start + chunk.count * kPanel);
    std::copy(values, values + (end - start), out + start);
}

// The rows of a linear in the form that their bank takes: scaled, rounded. One linear's at a time.
class PreparedRows
{
public:
    // coarse: see Kernels::round_fine; 0: a backbone's rows have 16 bits.
    PreparedRows(Kernels const& kernels, bool rounds, float coarse, size_t rows, size_t inputs,
        size_t group_size, Scratch& scratch)
        : kernels_(kernels)
        , rounds_(rounds)
        , coarse_(coarse)
        , groups_(chunks(inputs, group_size))
        , width_(groups_ * group_size)
        , stride_(line_stride(2 * width_))
        , codes_(scratch.codes(rows * stride_))
        , scales_(scratch.floats(0, rows * groups_))
        , sums_(scratch.floats(1, rows * groups_))
        , fine_sums_(scratch.fine_sums(rows * groups_))
        , low_bytes_(scratch.low_bytes(rows * groups_))
        , scaled_(scratch.floats(2, rows * width_))
    {
    }

    // Lists the rows of x [rows, inputs] by bank, those that are wanted; what is in x does not matter yet.
    void list(Linear const& linear, float const* x, std::vector<char> const& use_river,
        LinearRows& lists, char const* wanted = nullptr) const
    {
        lists.clear();
        lists.rounds = rounds_;
        for (size_t row = 0; row < use_river.size(); ++row)
        {
            if (wanted != nullptr && !wanted[row])
                continue;
            size_t const number = use_river[row] ? kRiver : kBackbone;
            add(linear, number, x + row * linear.inputs, row, row, lists);
        }
    }

    // Lists one row, x [inputs], of this number among the rows; `place`: where `prepare` puts it.
    void add(Linear const& linear, size_t bank, float const* x, size_t row, size_t place,
        LinearRows& lists) const
    {
        bool const scaled = linear.banks[bank].pre_scale != nullptr;
        LinearRows::OfBank& rows = lists.banks[bank];
        rows.numbers.push_back(row);
        rows.floats.push_back(scaled ? scaled_ + place * width_ : x);
        int8_t const* codes = codes_ + place * stride_;
        float const* scales = scales_ + place * groups_;
        rows.rounded.push_back({codes, scales, sums_ + place * groups_});
        rows.fine.push_back(
            {codes, scales, fine_sums_ + place * groups_, low_bytes_ + place * groups_});
    }

    // x: the row [inputs].
    void prepare(Linear const& linear, bool use_river, float const* x, size_t row) const
    {
        size_t const number = use_river ? kRiver : kBackbone, inputs = linear.inputs;
        Bank const& bank = linear.banks[number];
        float* scaled = scaled_ + row * width_;
        if (bank.pre_scale != nullptr)
        {
            for (size_t k = 0; k < inputs; ++k)
                scaled[k] = x[k] * bank.pre_scale[k];
            x = scaled;
        }
        if (!rounds_ || bank.dense.present())
            return;
        int8_t* codes = codes_ + row * stride_;
        float* scales = scales_ + row * groups_;
        size_t const size = bank.quantised.group_size;
        if (number == kBackbone)
            kernels_.round_fine(x, inputs, size, coarse_, codes, scales, fine_sums_ + row * groups_,
                low_bytes_ + row * groups_);
        else
            kernels_.round_row(x, inputs, size, codes, scales, sums_ + row * groups_);
    }

private:
    // Bytes from one row's codes to the next one's: an odd number of cache lines, or a group of many
    // rows falls into a few sets of the first cache.
    static size_t line_stride(size_t bytes)
    {
        constexpr size_t kLine = 64;
        return (chunks(bytes, kLine) | 1) * kLine;
    }

    Kernels const& kernels_;
    bool const rounds_;
    float const coarse_;
    size_t const groups_, width_; // of the widest linear
    size_t const stride_;
    int8_t* const codes_;
    float *const scales_, *const sums_;
    int32_t* const fine_sums_;
    uint8_t* const low_bytes_;
    float* const scaled_;
};

} // namespace river
