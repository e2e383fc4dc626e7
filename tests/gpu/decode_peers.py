"""What the River step is measured against: the same stack in plain torch, bf16 and int4.

The manner of gpt-fast: static caches, one token a step, torch.compile. A layer is compiled once and
called for each, or compiling would take minutes; the step as a whole becomes one CUDA graph.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding, linear, rms_norm, scaled_dot_product_attention, silu

from tests.gpu.decode_stack import GROUP_SIZE, NORM_EPS, Shape, Stack

INNER_K_TILES = 8  # of torch's int4 layout
Weight = Any  # of one linear, as `product` takes it
Product = Callable[[Tensor, Weight], Tensor]


class PlainModel:
    """The stack without banks and gate; `compiler` is torch.compile, or nothing."""

    def __init__(
        self,
        stack: Stack,
        product: Product,
        weights: list[dict[str, Weight]],
        compiler: Callable[[Any], Any],
    ) -> None:
        self.stack, self.weights = stack, weights
        self.layer = compiler(plain_layer)
        self.head = compiler(plain_head)
        self.product = product

    def step(self, ids: Tensor, past_lengths: Tensor) -> tuple[Tensor]:
        """Logits [batch, 1, vocab]; the caches are changed."""
        stack = self.stack
        rows = torch.arange(len(ids), device=ids.device)
        cos, sin = (
            table[past_lengths][:, None, None].bfloat16() for table in (stack.cos, stack.sin)
        )
        slots = torch.arange(stack.caches[0].shape[2], device=ids.device)
        visible = slots <= past_lengths[:, None, None, None]
        h = embedding(ids, stack.embedding)
        for index, (layer, weights) in enumerate(zip(stack.layers, self.weights, strict=True)):
            caches = stack.caches[2 * index], stack.caches[2 * index + 1]
            h = self.layer(
                *(h, weights, layer.input_norm, layer.post_norm, *caches),
                *(rows, past_lengths, cos, sin, visible, self.product, stack.shape),
            )
        return (self.head(h, stack.norm, stack.lm_head),)


def plain_layer(
    h: Tensor,  # [batch, 1, hidden]
    weights: dict[str, Weight],
    input_norm: Tensor,
    post_norm: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    rows: Tensor,
    past_lengths: Tensor,
    cos: Tensor,  # [batch, 1, 1, D / 2]
    sin: Tensor,
    visible: Tensor,  # [batch, 1, 1, capacity]
    product: Product,
    shape: Shape,
) -> Tensor:
    batch, hidden = len(h), (shape.hidden_size,)
    kv = shape.num_kv_heads * shape.head_dim
    normed = rms_norm(h, hidden, input_norm, NORM_EPS)
    parts = product(normed, weights["qkv"]).split([shape.num_heads * shape.head_dim, kv, kv], -1)
    q, k, v = (part.view(batch, 1, -1, shape.head_dim).transpose(1, 2) for part in parts)
    q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    k_cache[rows, :, past_lengths] = k[:, :, 0]
    v_cache[rows, :, past_lengths] = v[:, :, 0]
    attended = scaled_dot_product_attention(q, k_cache, v_cache, visible, enable_gqa=True)
    h = h + product(attended.transpose(1, 2).flatten(-2), weights["o"])
    normed = rms_norm(h, hidden, post_norm, NORM_EPS)
    gate, up = product(normed, weights["gate_up"]).chunk(2, -1)
    return h + product(silu(gate) * up, weights["down"])


def plain_head(h: Tensor, norm: Tensor, lm_head: Tensor) -> Tensor:
    return linear(rms_norm(h, (h.shape[-1],), norm, NORM_EPS), lm_head)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x [batch, heads, 1, D]."""
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


def bf16_model(stack: Stack, compiler: Callable[[Any], Any]) -> PlainModel:
    return PlainModel(stack, linear, [layer.weight for layer in stack.layers], compiler)


def int4_model(stack: Stack, compiler: Callable[[Any], Any]) -> PlainModel:
    """torch's own weight-only int4 kernel over codes of its own; needs CUDA."""
    weights = []
    device = stack.lm_head.device
    for _ in stack.layers:
        linears = {}
        for name, (n, k) in stack.shape.linears.items():
            codes = torch.randint(256, (n, k // 2), dtype=torch.uint8, device=device)
            size = (k // GROUP_SIZE, n, 2)
            scales = torch.full(size, 0.01, dtype=torch.bfloat16, device=codes.device)
            packed = torch.ops.aten._convert_weight_to_int4pack(codes, INNER_K_TILES)
            linears[name] = (packed, scales)
        weights.append(linears)
    return PlainModel(stack, int4_product, weights, compiler)


def int4_product(x: Tensor, weight: tuple[Tensor, Tensor]) -> Tensor:
    packed, scales = weight
    y: Tensor = torch.ops.aten._weight_int4pack_mm(x.flatten(0, 1), packed, GROUP_SIZE, scales)
    return y.view(*x.shape[:-1], -1)
