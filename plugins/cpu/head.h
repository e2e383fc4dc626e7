// The LM head, and its river: the rows of rare tokens in 4 bits, for rows that left the backbone.
//
//   did not leave:  every token by the head
//   left:           tokens below `frequent` by the head, the others by `rare`
#pragma once

#include <cstddef>
#include <cstdint>

#include "block.h"

namespace river
{

struct Head
{
    Linear all;          // one bank
    Linear rare;         // of the tokens from `frequent` on, in the river's bank; or not present
    size_t frequent = 0; // tokens, whole panels
    bool rounds = true;  // see LinearRows

    void take(WeightMemory& memory)
    {
        all.take(memory);
        if (rare.present())
            rare.take(memory);
    }
};

// x [rows, inputs] to logits [rows, all.outputs]. exit_layers [rows]: where each left, num_layers for
// one that did not; not read where the head has no river.
void run_head(Kernels const& kernels, Head const& head, int32_t const* exit_layers,
    int32_t num_layers, float const* x, size_t rows, float* logits, Pool const& pool,
    Scratch& scratch);

} // namespace river
