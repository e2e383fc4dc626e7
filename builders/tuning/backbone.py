"""A model's backbone whole in memory; its products are in bfloat16 where the CPU is fast at it."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from builders.decoder import BACKBONE_ONLY, DecoderLayer
from builders.layouts.modules import MODULES
from builders.position_tables import layer_rotary, position_tables, query_scale
from builders.source import ModelSource
from builders.weights import SharedWeights

# Given the inputs [tokens, K] of a linear and what the loss says of its outputs [tokens, N].
Watch = Callable[[Tensor, Tensor], None]


def product_dtype() -> torch.dtype:
    """bfloat16 on a CPU with AMX or AVX-512 BF16; else float32."""
    fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


class WatchedLinear(nn.Module):
    """In the place of a RiverLinear: its backbone, with somebody who looks at its gradients."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight, self.bias = weight.to(dtype), bias
        self.watch: Watch | None = None

    def forward(self, x: Tensor, use_river: Tensor) -> Tensor:
        y: Tensor = _Product.apply(  # type: ignore[no-untyped-call]
            x.to(self.weight.dtype), self.weight, self.watch
        )
        return y.float() if self.bias is None else y.float() + self.bias


class _Product(torch.autograd.Function):
    """x @ weight.T; instead of a gradient of the weight, a call of `watch`."""

    @staticmethod
    def forward(ctx, x, weight, watch):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x, weight)
        ctx.watch = watch
        return linear(x, weight)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        x, weight = ctx.saved_tensors
        if ctx.watch is not None:
            ctx.watch(x.flatten(0, 1), grad.flatten(0, 1))
        return grad @ weight, None, None


class Backbone:
    """What the model says of texts; `linears` of each layer, by name, can be watched."""

    def __init__(self, source: ModelSource, shared: SharedWeights, tokens: int) -> None:
        """tokens: of the longest text."""
        self.config = config = source.config
        self.dtype = product_dtype()
        self.embedding, self.norm = shared.embedding, shared.final_norm
        self.head = shared.lm_head.to(self.dtype)
        self.tables = position_tables(config, tokens)
        self.layers: list[DecoderLayer] = []
        self.linears: list[dict[str, WatchedLinear]] = []
        for index, spec in enumerate(config.layers):
            layer = DecoderLayer(config, spec, BACKBONE_ONLY)
            layer.assign_backbone(source.layer(index))
            watched = {
                name: WatchedLinear(module.weight, module.bias, self.dtype)
                for name, module in layer.linears().items()
            }
            for name, module in watched.items():
                layer.set_submodule(MODULES[name], module)
            self.layers.append(layer)
            self.linears.append(watched)

    def hidden(
        self,
        token_ids: Tensor,  # [texts, tokens]
        caches: list[Tensor] | None = None,  # K and V of each layer, replaced by longer ones
    ) -> Tensor:
        """What the head is given, float32 [texts, tokens, hidden].

        Where gradients are on they reach every linear, though no weight has one.
        """
        config, (texts, tokens) = self.config, token_ids.shape
        h = self.embedding[token_ids].float() * config.embedding_scale
        h.requires_grad_(torch.is_grad_enabled())
        flags = torch.zeros(texts, tokens, dtype=torch.bool)
        past = 0 if caches is None else caches[0].shape[2]
        start = torch.full((texts,), past, dtype=torch.int32)
        scale = query_scale(self.tables, start, flags)
        slots = torch.zeros(texts, config.num_kv_heads, tokens, config.head_dim)
        for index, (spec, layer) in enumerate(zip(config.layers, self.layers, strict=True)):
            k = v = slots
            if caches is not None:
                k, v = (torch.cat((c, slots), 2) for c in caches[2 * index : 2 * index + 2])
            h, k, v = layer(h, flags, k, v, start, layer_rotary(self.tables, spec), scale)
            if caches is not None:
                caches[2 * index : 2 * index + 2] = k, v
        normed: Tensor = torch.nn.functional.rms_norm(
            h, self.norm.shape, self.norm, config.norm_eps
        )
        return normed

    def logits(self, hidden: Tensor) -> Tensor:
        """float32 [..., vocab]."""
        logits, cap = linear(hidden.to(self.dtype), self.head).float(), self.config.final_softcap
        return logits if cap is None else cap * torch.tanh(logits / cap)


def batches(texts: Tensor, tokens: int) -> Iterator[Tensor]:
    """Texts [texts, length] a few at a time, of about so many tokens."""
    yield from torch.split(texts, max(1, tokens // texts.shape[1]))
