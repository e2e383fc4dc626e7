// The kernels as the CUDA implementation of the dialect's operators. builders/dialect.py defines the
// operators and their CPU reference; load this library with torch.ops.load_library.
#include "checks.h"

#include <torch/library.h>

#include <limits>
#include <optional>
#include <tuple>

namespace river::torch_ops
{
namespace
{
using at::Tensor;

int32_t narrow(char const* op, char const* name, int64_t value)
{
    TORCH_CHECK(value >= 0 && value <= std::numeric_limits<int32_t>::max(), op, ": ", name, " = ", value,
        ", but must fit 31 bits");
    return static_cast<int32_t>(value);
}

// y [batch, seq, N]. See builders/dialect.py for the arguments' shapes; scales and pre_scale are float16.
Tensor linear(Tensor const& x, Tensor const& use_river, Tensor const& weight, Tensor const& qweight,
    Tensor const& scales, std::optional<Tensor> const& zero_points, std::optional<Tensor> const& pre_scale,
    std::optional<Tensor> const& bias)
{
    constexpr char const* kOP = "river_trt::linear";
    c10::DeviceGuard const guard(x.device());
    TORCH_CHECK(x.dim() == 3 && weight.dim() == 2 && qweight.dim() == 3, kOP, ": x, weight and qweight have ",
        x.dim(), ", ", weight.dim(), " and ", qweight.dim(), " dimensions, but must have 3, 2 and 3");
    auto const device = x.device();
    auto const type = x.scalar_type();
    int64_t const batch = x.size(0), seq = x.size(1), k = x.size(2), n = weight.size(0);
    int64_t const group_size = 2 * qweight.size(2);
    TORCH_CHECK(group_size > 0, kOP, ": qweight is ", qweight.sizes(), ", but its last dimension is group_size / 2");
    int64_t const groups = (k + group_size - 1) / group_size;
    Tensor y = at::empty({batch, seq, n}, x.options());

    LinearParams p;
    p.type = activationType(kOP, x);
    p.flag_type = FlagType::kBool;
    p.rows = narrow(kOP, "batch * seq", batch * seq);
    p.n = narrow(kOP, "N", n);
    p.k = narrow(kOP, "K", k);
    p.x = checked(kOP, "x", x, type, {batch, seq, k}, device);
    p.use_river = checked(kOP, "use_river", use_river, at::kBool, {batch, seq}, device);
    p.weight = checked(kOP, "weight", weight, type, {n, k}, device);
    p.river.qweight = checked(kOP, "qweight", qweight, at::kByte, {n, groups, group_size / 2}, device);
    p.river.scales = checked(kOP, "scales", scales, at::kHalf, {n, groups}, device);
    p.river.group_size = narrow(kOP, "group_size", group_size);
    if (zero_points.has_value())
        p.river.zero_points = checked(kOP, "zero_points", *zero_points, at::kByte, {n, groups}, device);
    if (pre_scale.has_value())
        p.river.pre_scale = checked(kOP, "pre_scale", *pre_scale, at::kHalf, {k}, device);
    if (bias.has_value())
        p.bias = checked(kOP, "bias", *bias, type, {n}, device);
    p.y = y.mutable_data_ptr();
    Tensor const workspace = scratch(linear_workspace_bytes(p), device);
    p.workspace = workspace.mutable_data_ptr();
    p.workspace_bytes = static_cast<size_t>(workspace.numel());
    requireLaunched(kOP, launch_linear(p, currentStream(device)), explain_linear(p));
    return y;
}

// (exited [batch, seq] bool, exit_layer [batch, seq] int32), both new tensors.
std::tuple<Tensor, Tensor> gate(Tensor const& h_in, Tensor const& h_out, Tensor const& direction,
    Tensor const& use_direction, Tensor const& exited, Tensor const& exit_layer, Tensor const& tau,
    Tensor const& scope, int64_t layer)
{
    constexpr char const* kOP = "river_trt::gate";
    c10::DeviceGuard const guard(h_in.device());
    TORCH_CHECK(h_in.dim() == 3, kOP, ": h_in is ", h_in.sizes(), ", but must be [batch, seq, hidden]");
    auto const device = h_in.device();
    auto const type = h_in.scalar_type();
    int64_t const batch = h_in.size(0), seq = h_in.size(1), hidden = h_in.size(2);
    Tensor exited_out = at::empty({batch, seq}, exited.options());
    Tensor exit_layer_out = at::empty({batch, seq}, exit_layer.options());

    GateParams p;
    p.type = activationType(kOP, h_in);
    p.flag_type = FlagType::kBool;
    p.batch = narrow(kOP, "batch", batch);
    p.seq = narrow(kOP, "seq", seq);
    p.hidden = narrow(kOP, "hidden", hidden);
    p.layer = narrow(kOP, "layer", layer);
    p.h_in = checked(kOP, "h_in", h_in, type, {batch, seq, hidden}, device);
    p.delta = checked(kOP, "h_out", h_out, type, {batch, seq, hidden}, device);
    p.direction = static_cast<float const*>(checked(kOP, "direction", direction, at::kFloat, {hidden}, device));
    p.use_direction
        = static_cast<bool const*>(checked(kOP, "use_direction", use_direction, at::kBool, {}, device));
    p.tau = static_cast<float const*>(checked(kOP, "tau", tau, at::kFloat, {}, device));
    p.scope = static_cast<int32_t const*>(checked(kOP, "scope", scope, at::kInt, {}, device));
    p.exited = checked(kOP, "exited", exited, at::kBool, {batch, seq}, device);
    p.exit_layer
        = static_cast<int32_t const*>(checked(kOP, "exit_layer", exit_layer, at::kInt, {batch, seq}, device));
    p.exited_out = exited_out.mutable_data_ptr();
    p.exit_layer_out = static_cast<int32_t*>(exit_layer_out.mutable_data_ptr());
    Tensor const workspace = zeroedScratch(gate_workspace_bytes(p), device);
    p.workspace = workspace.mutable_data_ptr();
    p.workspace_bytes = static_cast<size_t>(workspace.numel());
    requireLaunched(kOP, launch_gate(p, currentStream(device)), explain_gate(p));
    return {exited_out, exit_layer_out};
}

// (out [batch, seq, num_heads * D], k_cache, v_cache). The dialect's operator is a function: the caches
// that it returns are copies. Rotary tables are float32 here.
std::tuple<Tensor, Tensor, Tensor> attention(Tensor const& q, Tensor const& k, Tensor const& v,
    Tensor const& k_cache, Tensor const& v_cache, Tensor const& past_lengths,
    std::optional<Tensor> const& rotary_cos, std::optional<Tensor> const& rotary_sin, int64_t num_heads,
    int64_t num_kv_heads, double scale, int64_t window, double softcap)
{
    constexpr char const* kOP = "river_trt::attention";
    c10::DeviceGuard const guard(q.device());
    TORCH_CHECK(q.dim() == 3 && k_cache.dim() == 4, kOP, ": q and k_cache have ", q.dim(), " and ", k_cache.dim(),
        " dimensions, but must have 3 and 4");
    TORCH_CHECK(rotary_cos.has_value() == rotary_sin.has_value(), kOP,
        ": rotary_cos and rotary_sin go together, but one is missing");
    auto const device = q.device();
    auto const type = q.scalar_type();
    int64_t const batch = q.size(0), seq = q.size(1), capacity = k_cache.size(2), head_dim = k_cache.size(3);
    checked(kOP, "k_cache", k_cache, type, {batch, num_kv_heads, capacity, head_dim}, device);
    checked(kOP, "v_cache", v_cache, type, {batch, num_kv_heads, capacity, head_dim}, device);

    AttentionParams p;
    p.type = activationType(kOP, q);
    p.batch = narrow(kOP, "batch", batch);
    p.seq = narrow(kOP, "seq", seq);
    p.num_heads = narrow(kOP, "num_heads", num_heads);
    p.num_kv_heads = narrow(kOP, "num_kv_heads", num_kv_heads);
    p.head_dim = narrow(kOP, "head_dim", head_dim);
    p.capacity = narrow(kOP, "capacity", capacity);
    p.scale = static_cast<float>(scale);
    p.window = narrow(kOP, "window", window);
    p.softcap = static_cast<float>(softcap);
    if (rotary_cos.has_value())
    {
        TORCH_CHECK(rotary_cos->dim() == 2, kOP, ": rotary_cos has ", rotary_cos->dim(),
            " dimensions, but must have 2");
        int64_t const positions = rotary_cos->size(0), half = rotary_cos->size(1);
        p.rotary_dim = narrow(kOP, "R", 2 * half);
        p.num_positions = narrow(kOP, "positions", positions);
        p.rotary_cos = static_cast<float const*>(
            checked(kOP, "rotary_cos", *rotary_cos, at::kFloat, {positions, half}, device));
        p.rotary_sin = static_cast<float const*>(
            checked(kOP, "rotary_sin", *rotary_sin, at::kFloat, {positions, half}, device));
    }
    // q, k and v may be parts of one qkv tensor: each row is dense, rows lie a stride apart.
    auto const rows = [&](char const* name, Tensor const& part, int64_t heads) {
        TORCH_CHECK(part.scalar_type() == type && part.device() == device && part.dim() == 3
                && part.size(0) == batch && part.size(1) == seq && part.size(2) == heads * head_dim,
            kOP, ": ", name, " is ", part.scalar_type(), " ", part.sizes(), " on ", part.device(), ", but must be ",
            type, " [", batch, ", ", seq, ", ", heads * head_dim, "] on ", device);
        bool const one_stride
            = part.stride(2) == 1 && (batch == 1 || part.stride(0) == seq * part.stride(1));
        return one_stride ? part : part.contiguous();
    };
    Tensor const q_rows = rows("q", q, num_heads), k_rows = rows("k", k, num_kv_heads),
                 v_rows = rows("v", v, num_kv_heads);
    p.q = q_rows.const_data_ptr();
    p.k = k_rows.const_data_ptr();
    p.v = v_rows.const_data_ptr();
    p.q_stride = narrow(kOP, "q's stride", q_rows.stride(1));
    p.k_stride = narrow(kOP, "k's stride", k_rows.stride(1));
    p.v_stride = narrow(kOP, "v's stride", v_rows.stride(1));
    p.past_lengths
        = static_cast<int32_t const*>(checked(kOP, "past_lengths", past_lengths, at::kInt, {batch}, device));
    Tensor out = at::empty({batch, seq, num_heads * head_dim}, q.options());
    Tensor k_out = k_cache.clone(), v_out = v_cache.clone();
    p.k_cache = k_out.mutable_data_ptr();
    p.v_cache = v_out.mutable_data_ptr();
    p.out = out.mutable_data_ptr();
    Tensor const workspace = zeroedScratch(attention_workspace_bytes(p), device);
    p.workspace = workspace.mutable_data_ptr();
    p.workspace_bytes = static_cast<size_t>(workspace.numel());
    requireLaunched(kOP, launch_attention(p, currentStream(device)), explain_attention(p));
    return {out, k_out, v_out};
}

} // namespace
} // namespace river::torch_ops

#if defined(RIVER_CPU_SHIM)
TORCH_LIBRARY_IMPL(river_trt, CPU, library)
#else
TORCH_LIBRARY_IMPL(river_trt, CUDA, library)
#endif
{
    library.impl("linear", TORCH_FN(river::torch_ops::linear));
    library.impl("gate", TORCH_FN(river::torch_ops::gate));
    library.impl("attention", TORCH_FN(river::torch_ops::attention));
}
