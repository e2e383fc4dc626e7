"""Fake kernels of the compiled operators: what torch must know to trace them.

The operators themselves are registered by the libraries of plugins/torch_cpu and plugins/torch,
which must be loaded first. Needs torch alone.
"""

import functools

import torch
from torch import Tensor


@functools.cache
def register_fakes(device: str) -> None:
    """For the operators of `cpu` or `cuda`, once."""
    namespace = f"river_trt_{device}"
    torch.library.register_fake(f"{namespace}::gate", _gate)
    attention = _attention if device == "cpu" else _attention_in_workspace
    torch.library.register_fake(f"{namespace}::attention", attention)
    if device == "cpu":
        torch.library.register_fake(f"{namespace}::linear", _panel_linear)
        return
    torch.library.register_fake(f"{namespace}::linear", _row_linear)
    torch.library.register_fake(f"{namespace}::fused_linear", _fused_linear)
    torch.library.register_fake(f"{namespace}::packed_linear", _packed_linear)
    torch.library.register_fake(f"{namespace}::add_gate", _add_gate)
    torch.library.register_fake(f"{namespace}::step_gate", _step_gate)


def _panel_linear(
    x: Tensor,
    use_river: Tensor | None,
    weight: Tensor | None,
    qweight: Tensor | None,
    scales: Tensor | None,
    zero_points: Tensor | None,
    pre_scale: Tensor | None,
    bias: Tensor | None,
    outputs: int,
    rounds: bool,
) -> Tensor:
    return x.new_empty((*x.shape[:-1], outputs))


def _row_linear(
    x: Tensor,
    use_river: Tensor,
    weight: Tensor,
    qweight: Tensor,
    scales: Tensor,
    zero_points: Tensor | None,
    pre_scale: Tensor | None,
    bias: Tensor | None,
) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


def _fused_linear(
    x: Tensor,
    use_river: Tensor | None,
    weight: Tensor | None,
    qweight: Tensor | None,
    scales: Tensor | None,
    zero_points: Tensor | None,
    pre_scale: Tensor | None,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_eps: float,
    silu_mul: bool,
    residual: Tensor | None,
) -> Tensor:
    bank = qweight if weight is None else weight
    assert bank is not None
    return x.new_empty((*x.shape[:-1], bank.shape[0] // (2 if silu_mul else 1)))


def _packed_linear(
    x: Tensor,
    use_river: Tensor | None,
    weight: Tensor | None,
    packed: Tensor | None,
    n: int,
    group_size: int,
    pre_scale: Tensor | None,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_eps: float,
    silu_mul: bool,
    residual: Tensor | None,
    int8_activations: bool,
    flags_early: bool,
    sum_squares: Tensor | None,
    sum_squares_out: Tensor | None,
    variant: int,
) -> Tensor:
    return x.new_empty((*x.shape[:-1], n // (2 if silu_mul else 1)))


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    past_lengths: Tensor,
    rotary_cos: Tensor | None,
    rotary_sin: Tensor | None,
    num_heads: int,
    num_kv_heads: int,
    scale: float,
    window: int,
    softcap: float,
) -> Tensor:
    return q.new_empty(q.shape)  # dense, whatever q's strides


def _attention_in_workspace(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    past_lengths: Tensor,
    rotary_cos: Tensor | None,
    rotary_sin: Tensor | None,
    num_heads: int,
    num_kv_heads: int,
    scale: float,
    window: int,
    softcap: float,
    workspace: Tensor | None = None,
    cache_rows: Tensor | None = None,
    variant: int = -1,
) -> Tensor:
    return q.new_empty(q.shape)


def _gate(
    h_in: Tensor,
    h_out: Tensor,
    direction: Tensor,
    use_direction: Tensor,
    exited: Tensor,
    exit_layer: Tensor,
    tau: Tensor,
    scope: Tensor,
    layer: int,
) -> tuple[Tensor, Tensor]:
    return exited.new_empty(exited.shape), exit_layer.new_empty(exit_layer.shape)


def _add_gate(
    h_in: Tensor,
    residual: Tensor,
    delta: Tensor,
    direction: Tensor,
    use_direction: Tensor,
    exited: Tensor,
    exit_layer: Tensor,
    tau: Tensor,
    pinned_next: Tensor,
    scope: Tensor,
    layer: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    flags, layers = _gate(
        h_in, delta, direction, use_direction, exited, exit_layer, tau, scope, layer
    )
    return h_in.new_empty(h_in.shape), flags, layers, exited.new_empty(exited.shape)


def _step_gate(
    h_in: Tensor,
    h_out: Tensor,
    direction: Tensor,
    use_direction: Tensor,
    exited: Tensor,
    exit_layer: Tensor,
    tau: Tensor,
    pinned_next: Tensor,
    scope: Tensor,
    layer: int,
    sum_squares: Tensor | None = None,
    workspace: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    flags, layers = _gate(
        h_in, h_out, direction, use_direction, exited, exit_layer, tau, scope, layer
    )
    return flags, layers, exited.new_empty(exited.shape)
