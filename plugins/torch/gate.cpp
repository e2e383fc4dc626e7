// The gate kernel as an operator: of the dialect, and with the residual add and the next layer's flags.
#include "checks.h"

#include <torch/library.h>

#include <tuple>

namespace river::torch_ops
{
namespace
{
using at::Tensor;

// Fills in what both operators have in common and launches.
void run(char const* op, GateParams p, Tensor const& h_in, Tensor const& direction,
    Tensor const& use_direction, Tensor const& exited, Tensor const& exit_layer, Tensor const& tau,
    Tensor const& scope, int64_t layer, Tensor& exited_out, Tensor& exit_layer_out,
    OptionalTensor const& given_workspace)
{
    auto const device = h_in.device();
    int64_t const batch = h_in.size(0), seq = h_in.size(1), hidden = h_in.size(2);
    p.type = activation_type(op, h_in);
    p.flag_type = FlagType::kBool;
    p.batch = narrow(op, "batch", batch);
    p.seq = narrow(op, "seq", seq);
    p.hidden = narrow(op, "hidden", hidden);
    p.layer = narrow(op, "layer", layer);
    p.h_in = checked(op, "h_in", h_in, h_in.scalar_type(), {batch, seq, hidden}, device);
    p.direction = static_cast<float const*>(
        checked(op, "direction", direction, at::kFloat, {hidden}, device));
    p.use_direction = static_cast<bool const*>(
        checked(op, "use_direction", use_direction, at::kBool, {}, device));
    p.tau = static_cast<float const*>(checked(op, "tau", tau, at::kFloat, {}, device));
    p.scope = static_cast<int32_t const*>(checked(op, "scope", scope, at::kInt, {}, device));
    p.exited = checked(op, "exited", exited, at::kBool, {batch, seq}, device);
    p.exit_layer = static_cast<int32_t const*>(
        checked(op, "exit_layer", exit_layer, at::kInt, {batch, seq}, device));
    p.exited_out = exited_out.mutable_data_ptr();
    p.exit_layer_out = static_cast<int32_t*>(exit_layer_out.mutable_data_ptr());
    Tensor const workspace = workspace_or(op, given_workspace, gate_workspace_bytes(p), device);
    p.workspace = workspace.mutable_data_ptr();
    p.workspace_bytes = static_cast<size_t>(workspace.numel());
    require_launched(op, launch_gate(p, current_stream(device)), explain_gate(p));
}

void require_rows(char const* op, Tensor const& h_in)
{
    TORCH_CHECK(
        h_in.dim() == 3, op, ": h_in is ", h_in.sizes(), ", but must be [batch, seq, hidden]");
}

// (exited [batch, seq] bool, exit_layer [batch, seq] int32), both new tensors.
std::tuple<Tensor, Tensor> gate(Tensor const& h_in, Tensor const& h_out, Tensor const& direction,
    Tensor const& use_direction, Tensor const& exited, Tensor const& exit_layer, Tensor const& tau,
    Tensor const& scope, int64_t layer)
{
    constexpr char const* kOp = "river_trt::gate";
    c10::DeviceGuard const guard(h_in.device());
    require_rows(kOp, h_in);
    Tensor exited_out = at::empty(exited.sizes(), exited.options());
    Tensor exit_layer_out = at::empty(exit_layer.sizes(), exit_layer.options());
    GateParams p;
    p.delta = checked(kOp, "h_out", h_out, h_in.scalar_type(), h_in.sizes(), h_in.device());
    run(kOp, p, h_in, direction, use_direction, exited, exit_layer, tau, scope, layer, exited_out,
        exit_layer_out, {});
    return {exited_out, exit_layer_out};
}

// h_out = residual + delta, then the gate; with use_river of the next layer.
std::tuple<Tensor, Tensor, Tensor, Tensor> add_gate(Tensor const& h_in, Tensor const& residual,
    Tensor const& delta, Tensor const& direction, Tensor const& use_direction, Tensor const& exited,
    Tensor const& exit_layer, Tensor const& tau, Tensor const& pinned_next, Tensor const& scope,
    int64_t layer)
{
    constexpr char const* kOp = "river_trt_cuda::add_gate";
    c10::DeviceGuard const guard(h_in.device());
    require_rows(kOp, h_in);
    auto const device = h_in.device();
    Tensor h_out = at::empty(h_in.sizes(), h_in.options());
    Tensor exited_out = at::empty(exited.sizes(), exited.options());
    Tensor exit_layer_out = at::empty(exit_layer.sizes(), exit_layer.options());
    Tensor use_river = at::empty(exited.sizes(), exited.options());
    GateParams p;
    p.residual = checked(kOp, "residual", residual, h_in.scalar_type(), h_in.sizes(), device);
    p.delta = checked(kOp, "delta", delta, h_in.scalar_type(), h_in.sizes(), device);
    p.pinned_next =
        static_cast<bool const*>(checked(kOp, "pinned_next", pinned_next, at::kBool, {}, device));
    p.h_out = h_out.mutable_data_ptr();
    p.use_river_next = use_river.mutable_data_ptr();
    run(kOp, p, h_in, direction, use_direction, exited, exit_layer, tau, scope, layer, exited_out,
        exit_layer_out, {});
    return {h_out, exited_out, exit_layer_out, use_river};
}

// The gate of a recorded step: h_out is complete (the linear before added the residual), and the
// kernel launched just before is the one that wrote it. sum_squares [batch, seq] float32 is what the
// next layer's norm needs of h_out.
std::tuple<Tensor, Tensor, Tensor> step_gate(Tensor const& h_in, Tensor const& h_out,
    Tensor const& direction, Tensor const& use_direction, Tensor const& exited,
    Tensor const& exit_layer, Tensor const& tau, Tensor const& pinned_next, Tensor const& scope,
    int64_t layer, OptionalTensor const& sum_squares, OptionalTensor const& workspace)
{
    constexpr char const* kOp = "river_trt_cuda::step_gate";
    c10::DeviceGuard const guard(h_in.device());
    require_rows(kOp, h_in);
    auto const device = h_in.device();
    Tensor exited_out = at::empty(exited.sizes(), exited.options());
    Tensor exit_layer_out = at::empty(exit_layer.sizes(), exit_layer.options());
    Tensor use_river = at::empty(exited.sizes(), exited.options());
    auto const rows = h_in.sizes().slice(0, 2);
    checked(kOp, "sum_squares", sum_squares, at::kFloat, rows, device);
    GateParams p;
    p.programmatic = true;
    p.delta = checked(kOp, "h_out", h_out, h_in.scalar_type(), h_in.sizes(), device);
    p.pinned_next =
        static_cast<bool const*>(checked(kOp, "pinned_next", pinned_next, at::kBool, {}, device));
    p.use_river_next = use_river.mutable_data_ptr();
    if (sum_squares.has_value())
        p.sum_squares = static_cast<float*>(sum_squares->mutable_data_ptr());
    run(kOp, p, h_in, direction, use_direction, exited, exit_layer, tau, scope, layer, exited_out,
        exit_layer_out, workspace);
    return {exited_out, exit_layer_out, use_river};
}

} // namespace

TORCH_LIBRARY_FRAGMENT(river_trt_cuda, library)
{
    library.def(
        "gate(Tensor h_in, Tensor h_out, Tensor direction, Tensor use_direction, Tensor exited, "
        "Tensor exit_layer, Tensor tau, Tensor scope, int layer) -> (Tensor, Tensor)");
    library.def("add_gate(Tensor h_in, Tensor residual, Tensor delta, Tensor direction, Tensor "
                "use_direction, "
                "Tensor exited, Tensor exit_layer, Tensor tau, Tensor pinned_next, Tensor scope, "
                "int layer) "
                "-> (Tensor, Tensor, Tensor, Tensor)");
    library.def("step_gate(Tensor h_in, Tensor h_out, Tensor direction, Tensor use_direction, "
                "Tensor exited, Tensor exit_layer, Tensor tau, Tensor pinned_next, Tensor scope, "
                "int layer, Tensor(a!)? sum_squares=None, Tensor(b!)? workspace=None) "
                "-> (Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(river_trt_cuda, RIVER_DISPATCH, library)
{
    library.impl("gate", TORCH_FN(gate));
    library.impl("add_gate", TORCH_FN(add_gate));
    library.impl("step_gate", TORCH_FN(step_gate));
}

TORCH_LIBRARY_IMPL(river_trt, RIVER_DISPATCH, library)
{
    library.impl("gate", TORCH_FN(gate));
}

} // namespace river::torch_ops
