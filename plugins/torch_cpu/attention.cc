// river_trt_cpu::attention: rotary, K and V to their slots, causal attention over the cache. The
// dialect's attention (builders/dialect.py), but the caches are written in place.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "checks.h"

namespace river::torch_cpu
{
namespace
{

constexpr char const* kOp = "river_trt_cpu::attention";
constexpr size_t kLeastWork = 16384; // values of keys in a piece for one thread

// q, k or v: parts of one qkv tensor have a stride between rows.
struct Rows
{
    float const* first;
    int64_t batch_stride, seq_stride;

    float const* at(int64_t batch, int64_t token) const
    {
        return first + batch * batch_stride + token * seq_stride;
    }
};

Rows rows_of(char const* name, Tensor const& part, int64_t batch, int64_t seq, int64_t size)
{
    TORCH_CHECK(part.scalar_type() == at::kFloat && part.is_cpu() && part.dim() == 3
            && part.size(0) == batch && part.size(1) == seq && part.size(2) == size,
        kOp, ": ", name, " is ", part.scalar_type(), " ", part.sizes(), ", but must be Float [",
        batch, ", ", seq, ", ", size, "] on the CPU");
    TORCH_CHECK(part.stride(2) == 1, kOp, ": the values of a row of ", name, " must lie together");
    return {part.const_data_ptr<float>(), part.stride(0), part.stride(1)};
}

struct Attention
{
    int64_t heads, kv_heads, dim, capacity, window;
    float scale, softcap;
    float const *cos, *sin; // [positions, half]; null: no rotary embedding
    int64_t half;

    int64_t slot(int64_t batch, int64_t kv_head, int64_t position) const
    {
        return ((batch * kv_heads + kv_head) * capacity + position) * dim;
    }

    void rotate(float const* x, int64_t position, float factor, float* out) const
    {
        float const *c = cos + position * half, *s = sin + position * half;
        for (int64_t i = 0; i < half; ++i)
        {
            float const a = x[i], b = x[half + i];
            out[i] = (a * c[i] - b * s[i]) * factor;
            out[half + i] = (b * c[i] + a * s[i]) * factor;
        }
        for (int64_t i = 2 * half; i < dim; ++i)
            out[i] = x[i] * factor;
    }

    // A head's output [dim] over the keys that the token at `position` sees.
    void attend(float const* q, float const* keys, float const* values, int64_t position,
        std::vector<float>& scores, float* out) const
    {
        int64_t const first = window > 0 ? std::max<int64_t>(0, position + 1 - window) : 0;
        size_t const count = unsigned_size(position + 1 - first), size = unsigned_size(dim);
        keys += first * dim;
        values += first * dim;
        if (softcap == 0.0f)
        {
            CachedRows const k = {const_cast<float*>(keys)}, v = {const_cast<float*>(values)};
            attend_all(kernels(), q, k, v, count, size, out);
            return;
        }
        scores.resize(count);
        float largest = -INFINITY, total = 0.0f;
        for (size_t i = 0; i < count; ++i)
        {
            scores[i] = softcap * std::tanh(kernels().dot(q, keys + i * size, size) / softcap);
            largest = std::max(largest, scores[i]);
        }
        std::fill(out, out + size, 0.0f);
        for (size_t i = 0; i < count; ++i)
        {
            float const weight = std::exp(scores[i] - largest);
            total += weight;
            for (size_t d = 0; d < size; ++d)
                out[d] += weight * values[i * size + d];
        }
        for (size_t d = 0; d < size; ++d)
            out[d] /= total;
    }
};

Tensor attention(Tensor const& q, Tensor const& k, Tensor const& v, Tensor& k_cache,
    Tensor& v_cache, Tensor const& past_lengths, OptionalTensor const& rotary_cos,
    OptionalTensor const& rotary_sin, int64_t num_heads, int64_t num_kv_heads, double scale,
    int64_t window, double softcap)
{
    TORCH_CHECK(q.dim() == 3 && k_cache.dim() == 4, kOp, ": q and k_cache have ", q.dim(), " and ",
        k_cache.dim(), " dimensions, but must have 3 and 4");
    constexpr int64_t kMostHeads = 65536;
    TORCH_CHECK(num_heads >= 1 && num_heads <= kMostHeads && num_kv_heads >= 1
            && num_heads % num_kv_heads == 0,
        kOp, ": ", num_heads, " heads cannot share ", num_kv_heads, " key and value heads");
    TORCH_CHECK(k_cache.size(3) >= 1 && window >= 0, kOp, ": a head_dim of ", k_cache.size(3),
        " and a window of ", window, ", but they must be at least 1 and 0");
    TORCH_CHECK(rotary_cos.has_value() == rotary_sin.has_value(), kOp,
        ": rotary_cos and rotary_sin go together, but one is missing");
    int64_t const batch = q.size(0), seq = q.size(1);
    Attention a = {};
    a.heads = num_heads;
    a.kv_heads = num_kv_heads;
    a.capacity = k_cache.size(2);
    a.dim = k_cache.size(3);
    a.window = window;
    a.scale = static_cast<float>(scale);
    a.softcap = static_cast<float>(softcap);
    int64_t positions = a.capacity;
    if (rotary_cos.has_value())
    {
        TORCH_CHECK(rotary_cos->dim() == 2, kOp, ": rotary_cos is ", rotary_cos->sizes(),
            ", but must be [positions, half]");
        positions = std::min(positions, rotary_cos->size(0));
        a.half = rotary_cos->size(1);
        TORCH_CHECK(2 * a.half <= a.dim, kOp, ": rotary tables turn ", 2 * a.half,
            " values of a head of ", a.dim);
        a.cos = data<float>(kOp, "rotary_cos", rotary_cos, {rotary_cos->size(0), a.half});
        a.sin = data<float>(kOp, "rotary_sin", rotary_sin, {rotary_cos->size(0), a.half});
    }
    Rows const q_rows = rows_of("q", q, batch, seq, num_heads * a.dim);
    Rows const k_rows = rows_of("k", k, batch, seq, num_kv_heads * a.dim);
    Rows const v_rows = rows_of("v", v, batch, seq, num_kv_heads * a.dim);
    int32_t const* past = data<int32_t>(kOp, "past_lengths", past_lengths, {batch});
    for (int64_t row = 0; row < batch; ++row)
    {
        TORCH_CHECK(past[row] >= 0 && past[row] + seq <= positions, kOp, ": ", seq,
            " tokens after ", past[row], " do not fit ", positions, " positions");
    }
    data<float>(kOp, "k_cache", k_cache, {batch, num_kv_heads, a.capacity, a.dim});
    data<float>(kOp, "v_cache", v_cache, {batch, num_kv_heads, a.capacity, a.dim});
    float *keys = k_cache.mutable_data_ptr<float>(), *values = v_cache.mutable_data_ptr<float>();
    Tensor out = at::empty({batch, seq, num_heads * a.dim}, q.options());
    float* result = out.mutable_data_ptr<float>();
    if (batch * seq == 0)
        return out;

    for (int64_t row = 0; row < batch * seq; ++row)
    {
        int64_t const b = row / seq, token = row % seq, position = past[b] + token;
        float const *key = k_rows.at(b, token), *value = v_rows.at(b, token);
        for (int64_t head = 0; head < num_kv_heads; ++head, key += a.dim, value += a.dim)
        {
            float* slot = keys + a.slot(b, head, position);
            if (a.cos != nullptr)
            {
                a.rotate(key, position, 1.0f, slot);
            }
            else
            {
                std::copy(key, key + a.dim, slot);
            }
            std::copy(value, value + a.dim, values + a.slot(b, head, position));
        }
    }
    // Numbered by batch, head and token, so that those of a chunk share keys and values.
    int64_t const items = batch * num_heads * seq, shared = num_heads / num_kv_heads;
    int64_t const most = 1 + *std::max_element(past, past + batch) + seq;
    size_t const grain = std::max<size_t>(1, kLeastWork / unsigned_size(most * a.dim));
    parallel_for(unsigned_size(items), grain, [&](size_t first, size_t end)
    {
        std::vector<float> query(unsigned_size(a.dim)), scores;
        for (int64_t item = static_cast<int64_t>(first); item < static_cast<int64_t>(end); ++item)
        {
            int64_t const token = item % seq, head = item / seq % num_heads,
                          b = item / (seq * num_heads);
            float const* x = q_rows.at(b, token) + head * a.dim;
            if (a.cos != nullptr)
            {
                a.rotate(x, past[b] + token, a.scale, query.data());
            }
            else
            {
                for (int64_t d = 0; d < a.dim; ++d)
                    query[unsigned_size(d)] = x[d] * a.scale;
            }
            int64_t const kv = a.slot(b, head / shared, 0);
            a.attend(query.data(), keys + kv, values + kv, past[b] + token, scores,
                result + ((b * seq + token) * num_heads + head) * a.dim);
        }
    });
    return out;
}

} // namespace

TORCH_LIBRARY_FRAGMENT(river_trt_cpu, library)
{
    library.def("attention(Tensor q, Tensor k, Tensor v, Tensor(a!) k_cache, Tensor(b!) v_cache, "
                "Tensor past_lengths, Tensor? rotary_cos, Tensor? rotary_sin, int num_heads, "
                "int num_kv_heads, float scale, int window, float softcap) -> Tensor");
}
TORCH_LIBRARY_IMPL(river_trt_cpu, CPU, library)
{
    library.impl("attention", TORCH_FN(attention));
}

} // namespace river::torch_cpu
