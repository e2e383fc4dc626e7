"""The river dialect: three torch operators that every backend lowers.

Each has a CPU implementation (the reference for all backends) and a fake kernel for tracing.
Their ONNX schemas are in onnx_schemas.py. Importing this module registers the operators.
"""

from typing import Any

import torch
from torch import Tensor

NIBBLES_PER_BYTE = 2
SYMMETRIC_ZERO_POINT = 8  # the code that stands for zero when no zero points are given


def dequantise(qweight: Tensor, scales: Tensor, zero_points: Tensor | None, k: int) -> Tensor:
    """Unpack 4-bit codes (low nibble = even column) into float32 [N, K].

    qweight uint8 [N, groups, group_size / 2], scales float32 [N, groups], zero_points uint8
    [N, groups] or None. The last group may be part filled: columns past `k` are dropped.
    """
    codes = torch.stack((qweight & 0xF, qweight >> 4), dim=-1).flatten(-2).float()
    zero = float(SYMMETRIC_ZERO_POINT) if zero_points is None else zero_points[..., None].float()
    return ((codes - zero) * scales[..., None]).flatten(1)[:, :k]


@torch.library.custom_op("river_trt::linear", mutates_args=())
def linear(
    x: Tensor,  # [batch, seq, K]
    use_river: Tensor,  # [batch, seq] bool
    weight: Tensor,  # [N, K] backbone bank
    qweight: Tensor,  # [N, groups, group_size / 2] uint8, river bank
    scales: Tensor,  # [N, groups]
    zero_points: Tensor | None,  # [N, groups] uint8; None = symmetric
    pre_scale: Tensor | None,  # [K] multiplies x on the river only
    bias: Tensor | None,  # [N] shared by both banks
) -> Tensor:
    """y [batch, seq, N]: each row through the bank that its flag names (design, section 3)."""
    if not use_river.any():
        return torch.nn.functional.linear(x, weight, bias)
    scaled = x if pre_scale is None else x * pre_scale
    river_weight = dequantise(qweight, scales, zero_points, x.shape[-1]).to(x.dtype)
    river = torch.nn.functional.linear(scaled, river_weight, bias)
    if use_river.all():
        return river
    backbone = torch.nn.functional.linear(x, weight, bias)
    return torch.where(use_river[..., None], river, backbone)


@linear.register_fake
def _(
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


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x [B, heads, S, D] by cos, sin [B, 1, S, R/2]; the rest of D passes."""
    half = cos.shape[-1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1)


def _attention(
    q: Tensor,  # [batch, seq, num_heads * D]
    k: Tensor,  # [batch, seq, num_kv_heads * D]
    v: Tensor,  # [batch, seq, num_kv_heads * D]
    k_cache: Tensor,  # [batch, num_kv_heads, T, D]
    v_cache: Tensor,  # [batch, num_kv_heads, T, D]
    past_lengths: Tensor,  # [batch] int32, tokens already in the cache
    rotary_cos: Tensor | None,  # [positions, R / 2]; None: no rotary embedding
    rotary_sin: Tensor | None,  # [positions, R / 2]
    num_heads: int,
    num_kv_heads: int,
    scale: float,
    window: int,  # tokens that a token sees, itself included; 0: all before it
    softcap: float,  # scores become cap * tanh(score / cap); 0: they stay
) -> tuple[Tensor, Tensor, Tensor]:
    """Rotary, write K and V to their slots, attend causally over the cache (GQA).

    Returns the output [batch, seq, num_heads * D] and the updated caches. Rows may have
    different past lengths; seq may be any number over a filled cache.
    """
    batch, seq, _ = q.shape
    q = q.view(batch, seq, num_heads, -1).transpose(1, 2)
    k = k.view(batch, seq, num_kv_heads, -1).transpose(1, 2)
    v = v.view(batch, seq, num_kv_heads, -1).transpose(1, 2)
    positions = past_lengths.long()[:, None] + torch.arange(seq)  # [batch, seq]
    if rotary_cos is not None and rotary_sin is not None:
        cos, sin = rotary_cos[positions][:, None], rotary_sin[positions][:, None]
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    rows = torch.arange(batch)[:, None]
    k_cache, v_cache = k_cache.clone(), v_cache.clone()
    k_cache[rows, :, positions] = k.transpose(1, 2)
    v_cache[rows, :, positions] = v.transpose(1, 2)
    used = int(positions.max()) + 1  # slots past every row's end hold nothing to attend to
    slots, now = torch.arange(used), positions[:, None, :, None]
    visible = slots <= now  # [batch, 1, seq, used]
    if window:
        visible = visible & (slots > now - window)
    out = _attend(q, k_cache[:, :, :used], v_cache[:, :, :used], visible, scale, softcap)
    return out.transpose(1, 2).flatten(-2), k_cache, v_cache


def _attend(
    q: Tensor,  # [batch, num_heads, seq, D]
    k: Tensor,  # [batch, num_kv_heads, used, D]
    v: Tensor,  # [batch, num_kv_heads, used, D]
    visible: Tensor,  # [batch, 1, seq, used] bool
    scale: float,
    softcap: float,
) -> Tensor:
    """[batch, num_heads, seq, D]. torch's own attention has no soft cap."""
    if not softcap:
        return torch.nn.functional.scaled_dot_product_attention(
            q, k, v, visible, scale=scale, enable_gqa=True
        )
    shared = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
    scores = softcap * torch.tanh(q @ k.transpose(-1, -2) * scale / softcap)
    return scores.masked_fill(~visible, -torch.inf).softmax(-1) @ v


attention = torch.library.custom_op("river_trt::attention", _attention, mutates_args=())


@attention.register_fake
def _(
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
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k_cache), torch.empty_like(v_cache)


def _keep_linear(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, use_river, weight, *_ = inputs
    assert not use_river.any(), "gradients are the backbone's"
    ctx.save_for_backward(weight)


def _linear_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (weight,) = ctx.saved_tensors
    return grad @ weight, *[None] * 7


def _keep_attention(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.attention_inputs = inputs


def _attention_gradients(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    """Of q, k and v: the attention computed once more, in torch's own operators."""
    q, k, v, *rest = ctx.attention_inputs
    with torch.enable_grad():
        q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
        out = _attention(q, k, v, *rest)[0]
        return *torch.autograd.grad(out, (q, k, v), grad), *[None] * 10


# For calibration, which asks how much each layer matters (builders/calibration/first_order.py), and
# for what tunes the river (builders/tuning).
linear.register_autograd(_linear_gradients, setup_context=_keep_linear)
attention.register_autograd(_attention_gradients, setup_context=_keep_attention)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """cos(a, b) over the last axis in float32; 0 where either vector is zero."""
    a, b = a.float(), b.float()
    norms = ((a * a).sum(-1) * (b * b).sum(-1)).sqrt()
    return (a * b).sum(-1) / norms.clamp_min(1e-30)


@torch.library.custom_op("river_trt::gate", mutates_args=())
def gate(
    h_in: Tensor,  # [batch, seq, hidden] input of the block
    h_out: Tensor,  # [batch, seq, hidden] output of the block
    direction: Tensor,  # [hidden] float32
    use_direction: Tensor,  # [] bool: the reference is `direction`, not h_in
    exited: Tensor,  # [batch, seq] bool
    exit_layer: Tensor,  # [batch, seq] int32
    tau: Tensor,  # [] float32
    scope: Tensor,  # [] int32: 0 token, 1 sequence, 2 batch
    layer: int,  # 1..L
) -> tuple[Tensor, Tensor]:
    """New (exited, exit_layer): a token exits after `layer` when its score passes tau.

    The score is cos(reference, h_out); with scope sequence or batch the smallest score of the
    sequence or of the batch decides for all of it (design, section 2, points 2, 3, 6 and 7).
    """
    score = cosine(direction if bool(use_direction) else h_in, h_out)  # [batch, seq]
    if int(scope) == 1:
        score = score.amin(dim=1, keepdim=True).expand_as(score)
    elif int(scope) == 2:
        score = score.amin().expand_as(score)
    passed = score > tau
    first_exit = passed & ~exited
    return exited | passed, torch.where(first_exit, layer, exit_layer).to(torch.int32)


@gate.register_fake
def _(
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
