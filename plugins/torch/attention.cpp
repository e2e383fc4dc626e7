// The attention kernel as an operator: of the dialect, and with caches written in place.
#include "checks.h"

#include <torch/library.h>

#include <tuple>

namespace river::torch_ops
{
namespace
{
using at::Tensor;

// out [batch, seq, num_heads * D]; the caches are written in place. Rotary tables are float32 here.
// programmatic: no kernel that writes the caches, past_lengths or cache_rows was launched just before.
// cache_rows [batch] int32 names each sequence's row of the caches, which may have more; that the
// rows are there is the caller's promise. variant: of attention_variants(), -1: as it was set.
Tensor attend(char const* op, bool programmatic, Tensor const& q, Tensor const& k, Tensor const& v,
    Tensor& k_cache, Tensor& v_cache, Tensor const& past_lengths, OptionalTensor const& rotary_cos,
    OptionalTensor const& rotary_sin, int64_t num_heads, int64_t num_kv_heads, double scale,
    int64_t window, double softcap, OptionalTensor const& given_workspace,
    OptionalTensor const& cache_rows, int64_t variant)
{
    c10::DeviceGuard const guard(q.device());
    TORCH_CHECK(q.dim() == 3 && k_cache.dim() == 4, op, ": q and k_cache have ", q.dim(), " and ",
        k_cache.dim(), " dimensions, but must have 3 and 4");
    TORCH_CHECK(rotary_cos.has_value() == rotary_sin.has_value(), op,
        ": rotary_cos and rotary_sin go together, but one is missing");
    auto const device = q.device();
    auto const type = q.scalar_type();
    int64_t const batch = q.size(0), seq = q.size(1), capacity = k_cache.size(2),
                  head_dim = k_cache.size(3);
    int64_t const num_rows = cache_rows.has_value() ? k_cache.size(0) : batch;
    checked(op, "k_cache", k_cache, type, {num_rows, num_kv_heads, capacity, head_dim}, device);
    checked(op, "v_cache", v_cache, type, {num_rows, num_kv_heads, capacity, head_dim}, device);

    AttentionParams p;
    p.type = activation_type(op, q);
    p.programmatic = programmatic;
    p.batch = narrow(op, "batch", batch);
    p.seq = narrow(op, "seq", seq);
    p.num_heads = narrow(op, "num_heads", num_heads);
    p.num_kv_heads = narrow(op, "num_kv_heads", num_kv_heads);
    p.head_dim = narrow(op, "head_dim", head_dim);
    p.capacity = narrow(op, "capacity", capacity);
    p.scale = static_cast<float>(scale);
    p.window = narrow(op, "window", window);
    p.softcap = static_cast<float>(softcap);
    TORCH_CHECK(variant == -1 || take_attention_variant(p, static_cast<int>(variant)), op,
        ": variant is ", variant, ", but there are ", attention_variants());
    if (rotary_cos.has_value())
    {
        TORCH_CHECK(rotary_cos->dim() == 2, op, ": rotary_cos has ", rotary_cos->dim(),
            " dimensions, but must have 2");
        int64_t const positions = rotary_cos->size(0), half = rotary_cos->size(1);
        p.rotary_dim = narrow(op, "R", 2 * half);
        p.num_positions = narrow(op, "positions", positions);
        p.rotary_cos = static_cast<float const*>(
            checked(op, "rotary_cos", *rotary_cos, at::kFloat, {positions, half}, device));
        p.rotary_sin = static_cast<float const*>(
            checked(op, "rotary_sin", *rotary_sin, at::kFloat, {positions, half}, device));
    }
    // q, k and v may be parts of one qkv tensor: each row is dense, rows lie a stride apart.
    auto const rows = [&](char const* name, Tensor const& part, int64_t heads)
    {
        TORCH_CHECK(part.scalar_type() == type && part.device() == device && part.dim() == 3
                && part.size(0) == batch && part.size(1) == seq && part.size(2) == heads * head_dim,
            op, ": ", name, " is ", part.scalar_type(), " ", part.sizes(), " on ", part.device(),
            ", but must be ", type, " [", batch, ", ", seq, ", ", heads * head_dim, "] on ",
            device);
        bool const one_stride =
            part.stride(2) == 1 && (batch == 1 || part.stride(0) == seq * part.stride(1));
        return one_stride ? part : part.contiguous();
    };
    Tensor const q_rows = rows("q", q, num_heads), k_rows = rows("k", k, num_kv_heads),
                 v_rows = rows("v", v, num_kv_heads);
    p.q = q_rows.const_data_ptr();
    p.k = k_rows.const_data_ptr();
    p.v = v_rows.const_data_ptr();
    p.q_stride = narrow(op, "q's stride", q_rows.stride(1));
    p.k_stride = narrow(op, "k's stride", k_rows.stride(1));
    p.v_stride = narrow(op, "v's stride", v_rows.stride(1));
    p.past_lengths = static_cast<int32_t const*>(
        checked(op, "past_lengths", past_lengths, at::kInt, {batch}, device));
    p.cache_rows = static_cast<int32_t const*>(
        checked(op, "cache_rows", cache_rows, at::kInt, {batch}, device));
    Tensor out = at::empty({batch, seq, num_heads * head_dim}, q.options());
    p.k_cache = k_cache.mutable_data_ptr();
    p.v_cache = v_cache.mutable_data_ptr();
    p.out = out.mutable_data_ptr();
    Tensor const workspace =
        workspace_or(op, given_workspace, attention_workspace_bytes(p), device);
    p.workspace = workspace.mutable_data_ptr();
    p.workspace_bytes = static_cast<size_t>(workspace.numel());
    require_launched(op, launch_attention(p, current_stream(device)), explain_attention(p));
    return out;
}

Tensor attention_in_place(Tensor const& q, Tensor const& k, Tensor const& v, Tensor& k_cache,
    Tensor& v_cache, Tensor const& past_lengths, OptionalTensor const& rotary_cos,
    OptionalTensor const& rotary_sin, int64_t num_heads, int64_t num_kv_heads, double scale,
    int64_t window, double softcap, OptionalTensor const& workspace,
    OptionalTensor const& cache_rows, int64_t variant)
{
    return attend("river_trt_cuda::attention", true, q, k, v, k_cache, v_cache, past_lengths,
        rotary_cos, rotary_sin, num_heads, num_kv_heads, scale, window, softcap, workspace,
        cache_rows, variant);
}

// The dialect's operator is a function: the caches that it returns are copies.
std::tuple<Tensor, Tensor, Tensor> attention(Tensor const& q, Tensor const& k, Tensor const& v,
    Tensor const& k_cache, Tensor const& v_cache, Tensor const& past_lengths,
    OptionalTensor const& rotary_cos, OptionalTensor const& rotary_sin, int64_t num_heads,
    int64_t num_kv_heads, double scale, int64_t window, double softcap)
{
    Tensor k_out = k_cache.clone(), v_out = v_cache.clone();
    Tensor out = attend("river_trt::attention", false, q, k, v, k_out, v_out, past_lengths,
        rotary_cos, rotary_sin, num_heads, num_kv_heads, scale, window, softcap, {}, {}, -1);
    return {out, k_out, v_out};
}

// A measured variant of a shape: what attention's variant -1 then means in this process.
void set_variant(int64_t batch, int64_t seq, int64_t num_heads, int64_t num_kv_heads,
    int64_t head_dim, int64_t capacity, int64_t window, int64_t variant)
{
    char const* const op = "river_trt_cuda::set_attention_variant";
    AttentionParams p;
    p.batch = narrow(op, "batch", batch);
    p.seq = narrow(op, "seq", seq);
    p.num_heads = narrow(op, "num_heads", num_heads);
    p.num_kv_heads = narrow(op, "num_kv_heads", num_kv_heads);
    p.head_dim = narrow(op, "head_dim", head_dim);
    p.capacity = narrow(op, "capacity", capacity);
    p.window = narrow(op, "window", window);
    TORCH_CHECK(set_attention_variant(p, narrow(op, "variant", variant)), op, ": variant is ",
        variant, ", but there are ", attention_variants());
}

std::vector<std::string> attention_variants_names()
{
    std::vector<std::string> names;
    for (int i = 0; i < attention_variants(); ++i)
        names.emplace_back(attention_variant_name(i));
    return names;
}

} // namespace

TORCH_LIBRARY_FRAGMENT(river_trt_cuda, library)
{
    library.def("attention(Tensor q, Tensor k, Tensor v, Tensor(a!) k_cache, Tensor(b!) v_cache, "
                "Tensor past_lengths, Tensor? rotary_cos, Tensor? rotary_sin, int num_heads, int "
                "num_kv_heads, "
                "float scale, int window, float softcap, Tensor(c!)? workspace=None, "
                "Tensor? cache_rows=None, int variant=-1) -> Tensor");
    library.def("set_attention_variant(int batch, int seq, int num_heads, int num_kv_heads, "
                "int head_dim, int capacity, int window, int variant) -> ()",
        set_variant);
    library.def("attention_variants() -> str[]", attention_variants_names);
    library.def(
        "attention_version() -> int", [] { return static_cast<int64_t>(attention_version()); });
}

TORCH_LIBRARY_IMPL(river_trt_cuda, RIVER_DISPATCH, library)
{
    library.impl("attention", TORCH_FN(attention_in_place));
}

TORCH_LIBRARY_IMPL(river_trt, RIVER_DISPATCH, library)
{
    library.impl("attention", TORCH_FN(attention));
}

} // namespace river::torch_ops
