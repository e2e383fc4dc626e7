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
        size_t const grid = panels * quantised.groups() * kPanel;
        memory.add(dense.single, panels * dense.inputs * kPanel);
        memory.add(dense.half, panels * dense.inputs * kPanel);
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
struct LinearRows;

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

    // Of the banks that rows use, for panels first .. first + count; what belongs to no panel counts
    // with the first one.
    size_t read_bytes(LinearRows const& rows, size_t first, size_t count) const;

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

// Panels first .. first + count (at most kMaxChunkPanels) of the linear for all rows:
// write(row, values) gets each row's values [count * 16], bias added.
template <typename Write>
void apply(Kernels const& kernels, Linear const& linear, LinearRows const& rows, size_t first,
    size_t count, Write&& write);

// ---- implementation

constexpr size_t kMaxChunkPanels = 8;
constexpr size_t kBlock = 32; // times kMaxRows rows of one panel: what `apply` holds at a time

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

inline size_t Linear::read_bytes(LinearRows const& rows, size_t first, size_t count) const
{
    size_t bytes = bias != nullptr ? count * kPanel * sizeof(float) : 0;
    for (size_t number : {kBackbone, kRiver})
    {
        if (rows.banks[number].numbers.empty())
            continue;
        bytes += count * banks[number].panel_bytes();
        if (first == 0 && banks[number].pre_scale != nullptr)
            bytes += inputs * sizeof(float);
    }
    return bytes;
}

template <typename Write>
void apply(Kernels const& kernels, Linear const& linear, LinearRows const& rows, size_t first,
    size_t count, Write&& write)
{
    float y[kMaxRows * kBlock * kPanel];
    for (size_t number : {kBackbone, kRiver})
    {
        Bank const& bank = linear.banks[number];
        LinearRows::OfBank const& chosen = rows.banks[number];
        bool const rounds = rows.rounds && !bank.dense.present();
        bool const fine = rounds && number == kBackbone;
        size_t most = kBlock / count * kMaxRows;
        if (!fine && !bank.dense.present())
            most = std::min(most, rounds ? kernels.most_rounded : kMaxRows);
        for (size_t start = 0; start < chosen.numbers.size(); start += most)
        {
            size_t const block = std::min(most, chosen.numbers.size() - start);
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
