"""The CUDA operators' signatures, so that a machine without their library can write programs."""

import torch

SCHEMAS = (
    "fused_linear(Tensor x, Tensor? use_river, Tensor? weight, Tensor? qweight, Tensor? scales, "
    "Tensor? zero_points, Tensor? pre_scale, Tensor? bias, Tensor? norm_weight, float norm_eps, "
    "bool silu_mul, Tensor? residual) -> Tensor",
    "pack(Tensor qweight, Tensor scales, Tensor? zero_points, int k) -> Tensor",
    "packed_linear(Tensor x, Tensor? use_river, Tensor? weight, Tensor? packed, int n, "
    "int group_size, Tensor? pre_scale, Tensor? bias, Tensor? norm_weight, float norm_eps, "
    "bool silu_mul, Tensor? residual, bool int8_activations, bool flags_early, "
    "Tensor? sum_squares, Tensor(a!)? sum_squares_out, int variant) -> Tensor",
    "attention(Tensor q, Tensor k, Tensor v, Tensor(a!) k_cache, Tensor(b!) v_cache, "
    "Tensor past_lengths, Tensor? rotary_cos, Tensor? rotary_sin, int num_heads, "
    "int num_kv_heads, float scale, int window, float softcap, Tensor(c!)? workspace=None, "
    "Tensor? cache_rows=None, int variant=-1) -> Tensor",
    "gate(Tensor h_in, Tensor h_out, Tensor direction, Tensor use_direction, Tensor exited, "
    "Tensor exit_layer, Tensor tau, Tensor scope, int layer) -> (Tensor, Tensor)",
    "step_gate(Tensor h_in, Tensor h_out, Tensor direction, Tensor use_direction, Tensor exited, "
    "Tensor exit_layer, Tensor tau, Tensor pinned_next, Tensor scope, int layer, "
    "Tensor(a!)? sum_squares=None, Tensor(b!)? workspace=None) -> (Tensor, Tensor, Tensor)",
)
_declared: list[torch.library.Library] = []


def declare_operators() -> None:
    """Make torch.ops.river_trt_cuda known where the library is not loaded."""
    if _declared or hasattr(torch.ops.river_trt_cuda, "fused_linear"):
        return
    library = torch.library.Library("river_trt_cuda", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema in SCHEMAS:
        library.define(schema)  # type: ignore[no-untyped-call]
    _declared.append(library)


def withdraw_operators() -> None:
    """Forget what was declared: the library that is loaded next declares its own."""
    while _declared:
        _declared.pop()._destroy()  # type: ignore[no-untyped-call]
