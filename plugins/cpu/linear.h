// A linear layer with up to two banks, applied to the rows of each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels.h"
#include "weight_memory.h"

namespace river {

struct Linear {
  size_t inputs = 0;   // K
  size_t outputs = 0;  // N
  size_t panels = 0;
  const float* backbone = nullptr;  // [panels, inputs, 16], or null: no backbone
  QuantisedPanels river = {};       // codes null: no river
  const float* pre_scale = nullptr;  // [inputs], of the river's input
  const float* bias = nullptr;       // [panels * 16]

  // Copies the weights.
  void take(WeightMemory& memory) {
    const size_t grid = panels * river.groups() * kPanel;
    memory.add(backbone, panels * inputs * kPanel);
    memory.add(river.codes, panels * river.panel_bytes());
    memory.add(river.scales, grid);
    memory.add(river.zero_points, grid);
    memory.add(pre_scale, inputs);
    memory.add(bias, panels * kPanel);
  }

  bool present() const { return outputs != 0; }
};

// Some rows of a linear's input, and which of them use the river.
struct LinearRows {
  std::vector<const float*> backbone;  // of each row on the backbone: its input
  std::vector<size_t> backbone_rows;   // their numbers
  std::vector<RoundedRow> river;       // of each row on the river: its input, rounded
  std::vector<const float*> river_floats;  // or as it is
  std::vector<size_t> river_rows;
  bool rounds = true;  // the river takes rounded rows

  void clear();
};

// Panels first .. first + count (at most kMaxChunkPanels) of the linear for all rows:
// write(row, values) gets each row's values [count * 16], bias added.
template <typename Write>
void apply(const Kernels& kernels, const Linear& linear, const LinearRows& rows, size_t first,
           size_t count, Write&& write);

// ---- implementation

constexpr size_t kMaxChunkPanels = 8;
constexpr size_t kBlock = 32;  // times kMaxRows rows of one panel: what `apply` holds at a time

inline void LinearRows::clear() {
  backbone.clear();
  backbone_rows.clear();
  river.clear();
  river_floats.clear();
  river_rows.clear();
}

template <typename Write>
void apply(const Kernels& kernels, const Linear& linear, const LinearRows& rows, size_t first,
           size_t count, Write&& write) {
  float y[kMaxRows * kBlock * kPanel];
  const size_t most = kBlock / count * kMaxRows;
  const auto finish = [&](const std::vector<size_t>& numbers, size_t start, size_t block) {
    for (size_t r = 0; r < block; ++r) {
      float* values = y + r * count * kPanel;
      if (linear.bias != nullptr) {
        for (size_t i = 0; i < count * kPanel; ++i) values[i] += linear.bias[first * kPanel + i];
      }
      write(numbers[start + r], values);
    }
  };
  for (size_t start = 0; start < rows.backbone_rows.size(); start += most) {
    const size_t left = rows.backbone_rows.size() - start, block = left < most ? left : most;
    const float* backbone = linear.backbone + first * linear.inputs * kPanel;
    kernels.dense(backbone, linear.inputs, count, rows.backbone.data() + start, block, y);
    finish(rows.backbone_rows, start, block);
  }
  for (size_t start = 0; start < rows.river_rows.size(); start += kMaxRows) {
    const size_t left = rows.river_rows.size() - start, block = left < kMaxRows ? left : kMaxRows;
    const QuantisedPanels panels = linear.river.from(first);
    if (rows.rounds) {
      kernels.rounded(panels, count, rows.river.data() + start, block, y);
    } else {
      kernels.widened(panels, count, rows.river_floats.data() + start, block, y);
    }
    finish(rows.river_rows, start, block);
  }
}

}  // namespace river
