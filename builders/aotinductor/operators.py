"""Fake kernels of the compiled operators: what torch must know to trace them.

The operators themselves are registered by the libraries of plugins/torch_cpu and plugins/torch,
which must be loaded first.
"""

import functools

import torch
from torch import Tensor

from river_trt.backends.aotinductor.operators import load_operators


@functools.cache
def register_operators(device: str) -> None:
    """Load the operators of `cpu` or `cuda` and register their fake kernels, once.

    Raises RiverError where the library is not there and cannot be compiled.
    """
    load_operators(device)
    namespace = f"river_trt_{device}"
    torch.library.register_fake(f"{namespace}::gate", _gate)
    torch.library.register_fake(f"{namespace}::attention", _attention)
    torch.library.register_fake(
        f"{namespace}::linear", _panel_linear if device == "cpu" else _row_linear
    )


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
    return torch.empty_like(exited), torch.empty_like(exit_layer)
