// A linear layer with up to two banks, applied to the rows of each.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels.h"
#include "weight_memory.h"

namespace river
{

// The weights of one bank: floats, or codes.
struct Bank
{
    DensePanels dense;
    QuantisedPanels quantised = {};   // codes null: none
    float const* pre_scale = nullptr; // [inputs], of its input

    bool present() const
    {
        return dense.present() || quantised.codes != nullptr;
    }

    // Copies the weights of so many panels.
    void take(WeightMemory& memory, size_t panels)
    {
        if (!present())
            return;
        memory.add(dense.single, panels * dense.inputs * kPanel);
        memory.add(dense.half, panels * dense.inputs * kPanel);
        if (quantised.codes == nullptr)
            return;
        size_t const grid = panels * quantised.groups() * kPanel;
        memory.add(quantised.codes, panels * quantised.panel_bytes());
        memory.add(quantised.scales, grid);
        memory.add(quantised.zero_points, grid);
        memory.add(pre_scale, quantised.inputs);
    }

    size_t panel_bytes() const
    {
        if (dense.present())
            return dense.inputs * kPanel * (dense.half != nullptr ? 2 : sizeof(float));
        size_t const column = sizeof(float) + (quantised.zero_points != nullptr ? 1 : 0);
        return quantised.panel_bytes() + quantised.groups() * kPanel * column;
    }
};

constexpr size_t kBackbone = 0, kRiver = 1; // places of the banks
constexpr size_t kChunkRows = 96;           // of a bank, in one chunk of the work

struct LinearRows;

// A part of a linear's work: panels first .. first + count (at most kMaxChunkPanels) for kChunkRows
// rows of each bank from row on.
struct LinearChunk
{
    size_t first, count, row;
};

struct Linear
{
    size_t inputs = 0;  // K
    size_t outputs = 0; // N
    size_t panels = 0;
    Bank banks[2];
    float const* bias = nullptr; // [panels * 16]

    void take(WeightMemory& memory)
    {
        for (Bank& bank : banks)
            bank.take(memory, panels);
        memory.add(bias, panels * kPanel);
    }

    bool present() const
    {
        return outputs != 0;
    }

    // Of the banks that the chunk's rows use; what belongs to no panel counts with the first one, and
    // what the chunk before has read, too, does not.
    size_t read_bytes(LinearRows const& rows, LinearChunk const& chunk) const;

    // Of the quantised banks, which have the same; kMaxGroup where there are none.
    size_t group_size() const
    {
        for (Bank const& bank : banks)
        {
            if (bank.quantised.codes != nullptr)
                return bank.quantised.group_size;
        }
        return kMaxGroup;
    }
};

// Some rows of a linear's input, by the bank that they use.
struct LinearRows
{
    struct OfBank
    {
        std::vector<size_t> numbers;
        std::vector<float const*> floats; // the input of each, times pre_scale,
        // and rounded, for quantised banks: the river's to 8 bits a group, the backbone's to 16,
        // as it is the bank of quality.
        std::vector<RoundedRow> rounded;
        std::vector<FineRow> fine;
    };
    OfBank banks[2];
    bool rounds = true; // quantised banks take rounded rows

    void clear();
};

// Does the chunk: write(row, values) gets each row's values [count * 16], bias added.
template <typename Write>
void apply(Kernels const& kernels, Linear const& linear, LinearRows const& rows,
    LinearChunk const& chunk, Write&& write);

// ---- implementation

constexpr size_t kMaxChunkPanels = 8;
constexpr size_t kMostValues = 384; // rows times panels: what `apply` holds at a time

inline void LinearRows::clear()
{
    for (OfBank& bank : banks)
    {
        bank.numbers.clear();
        bank.floats.clear();
        bank.rounded.clear();
        bank.fine.clear();
    }
}

inline size_t Linear::read_bytes(LinearRows const& rows, LinearChunk const& chunk) const
{
    if (chunk.row != 0)
        return 0;
    size_t bytes = bias != nullptr ? chunk.count * kPanel * sizeof(float) : 0;
    for (size_t number : {kBackbone, kRiver})
    {
        if (rows.banks[number].numbers.empty())
            continue;
        bytes += chunk.count * banks[number].panel_bytes();
        if (chunk.first == 0 && banks[number].pre_scale != nullptr)
            bytes += inputs * sizeof(float);
    }
    return bytes;
}

template <typename Write>
void apply(Kernels const& kernels, Linear const& linear, LinearRows const& rows,
    LinearChunk const& chunk, Write&& write)
{
    size_t const first = chunk.first, count = chunk.count;
    alignas(64) float y[kMostValues * kPanel];
    for (size_t number : {kBackbone, kRiver})
    {
        Bank const& bank = linear.banks[number];
        LinearRows::OfBank const& chosen = rows.banks[number];
        bool const rounds = rows.rounds && !bank.dense.present();
        bool const fine = rounds && number == kBackbone;
        size_t most = std::min(kMostValues / count, kChunkRows);
        if (!fine && !bank.dense.present())
            most = std::min(most, rounds ? kernels.most_rounded : kMaxRows);
        size_t const end = std::min(chosen.numbers.size(), chunk.row + kChunkRows);
        for (size_t start = chunk.row; start < end; start += most)
        {
            size_t const block = std::min(most, end - start);
            if (bank.dense.present())
            {
                kernels.dense(
                    bank.dense.from(first), count, chosen.floats.data() + start, block, y);
            }
            else if (fine)
            {
                kernels.fine(
                    bank.quantised.from(first), count, chosen.fine.data() + start, block, y);
            }
            else if (rounds)
            {
                kernels.rounded(
                    bank.quantised.from(first), count, chosen.rounded.data() + start, block, y);
            }
            else
            {
                kernels.widened(
                    bank.quantised.from(first), count, chosen.floats.data() + start, block, y);
            }
            for (size_t r = 0; r < block; ++r)
            {
                float* values = y + r * count * kPanel;
                if (linear.bias != nullptr)
                {
                    for (size_t i = 0; i < count * kPanel; ++i)
                        values[i] += linear.bias[first * kPanel + i];
                }
                write(chosen.numbers[start + r], values);
            }
        }
    }
}

} // namespace river
