// A layer of a River model from its q, k, v to the next layer's, as one piece of work:
//
//   qkv -- rotary, cache, attention                                                    layer l
//   attended -- o --(+ h_in)-- norm -- gate_up -- silu(gate) * up -- down --(+)-- h_out
//   gate(h_in or direction, h_out): exit_layer
//   h_out -- norm -- qkv                                                                layer l + 1
//
// Each row uses its own bank. The first block of a model has only the last part, and the last
// block has no last part. A block that is given `attended` leaves the attention to another operator.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "linear.h"
#include "parallel.h"

namespace river
{

constexpr int32_t kNever = INT32_MAX;

struct BlockWeights
{
    int32_t layer = 0; // l from 1; 0 in the first block
    int32_t num_layers = 0;
    size_t hidden = 0;
    float epsilon = 0.0f;          // of the norms
    bool rounds = true;            // quantised banks round their inputs, see LinearRows
    size_t group_size = kMaxGroup; // of the quantised banks
    size_t num_heads = 0, num_kv_heads = 0, head_dim = 0, rotary = 0; // rotary: values of a head
    float scale = 0.0f;                                               // of the scores
    float const *q_norm = nullptr, *k_norm = nullptr; // [head_dim], before the rotation; or none
    float const* cos = nullptr;                       // [positions, rotary / 2]
    float const* sin = nullptr;
    size_t window = 0;                // keys that a query sees, its own last; 0: all
    Linear o, gate_up, down;          // gate_up: panels of gate and of up take turns
    bool gelu = false;                // the gate's activation, or silu
    float const* out_norm = nullptr;  // [hidden], of o's output before it is added; or none
    float const* down_norm = nullptr; // of down's
    float const* post_norm = nullptr; // [hidden]
    Linear qkv;
    float const* input_norm = nullptr; // [hidden], of layer l + 1

    size_t intermediate() const
    {
        return gate_up.outputs / 2;
    }
};

struct BlockInputs
{
    size_t batch, seq;
    float const* h_in;           // [batch, seq, hidden]
    float const* attended;       // [batch, seq, num_heads * head_dim], or null: computed from
    float const* qkv;            // [batch, seq, (num_heads + 2 num_kv_heads) * head_dim]
    int32_t const* past_lengths; // [batch]
    CachedRows k_cache, v_cache; // [batch, num_kv_heads, cache_length, cached_width], in place
    size_t cache_length;
    int32_t const* exit_layer; // [batch, seq]: kNever or the layer after which the token left
    float const* tau;          // [L]
    bool const* pinned;        // [L]
    bool use_directions;
    float const* directions; // [L, hidden]
    int32_t gate_scope;      // 0 token, 1 sequence, 2 batch
    // [num_wanted]: the positions of each sequence whose h_out is read; null: all.
    int64_t const* wanted;
    size_t num_wanted;
};

struct BlockOutputs
{
    float* h_out;        // [batch, seq, hidden]
    int32_t* exit_layer; // [batch, seq]; the last block's holds L where a token never left
    float* qkv;          // [batch, seq, qkv.outputs]
};

// Buffers of one call. Kept between calls, so that they stay in the cache and in their size.
class Scratch
{
public:
    float* floats(size_t slot, size_t count)
    {
        return reserve(floats_[slot], count);
    }
    int8_t* codes(size_t count)
    { // whole lines of the cache
        auto const at = reinterpret_cast<uintptr_t>(reserve(codes_, count + kLine));
        return reinterpret_cast<int8_t*>((at + kLine - 1) / kLine * kLine);
    }
    int32_t* fine_sums(size_t count)
    {
        return reserve(fine_sums_, count);
    }
    uint8_t* low_bytes(size_t count)
    {
        return reserve(low_bytes_, count);
    }
    enum Of
    {
        kO,
        kGateUp,
        kDown,
        kQkv
    };
    LinearRows rows[4];
    std::vector<char> use_river;
    std::vector<char> wanted;

private:
    static constexpr size_t kLine = 64;

    template <typename T>
    static T* reserve(std::vector<T>& buffer, size_t count)
    {
        if (buffer.size() < count)
            buffer.resize(count);
        return buffer.data();
    }

    std::vector<float> floats_[12];
    std::vector<int8_t> codes_;
    std::vector<int32_t> fine_sums_;
    std::vector<uint8_t> low_bytes_;
};

void run_block(Kernels const& kernels, BlockWeights const& weights, BlockInputs const& in,
    BlockOutputs const& out, Pool const& pool, Scratch& scratch);

// Rows [rows, inputs] through one linear. use_river: of each row; null where the linear has one bank.
void run_linear(Kernels const& kernels, Linear const& linear, bool rounds, bool const* use_river,
    float const* x, size_t rows, float* y, Pool const& pool, Scratch& scratch);

} // namespace river
