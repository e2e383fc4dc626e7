"""What becomes of the K and V that a token does not compute once it has exited: five answers.

    strategy     K/V of the layers after the exit                      what it costs
    share        written by the river, into the same slots             river layers
    recompute    the backbone's, run later (EE-LLM)                    backbone layers, later
    propagate    projected from the exit state (CALM)                  two projections a layer
    mask         none: later tokens do not see this one (D-LLM)        nothing
    monotone     none are missing: no later token goes deeper          no freedom of depth
                 than an earlier one (SkipDecode)

Two readouts say what the exited token's own logits come from:

    exit state   final norm and LM head on the hidden state at the exit, as in the papers named
                 above. `share` has no such readout: its token goes on through the river.
    river        every strategy's token goes on through the river for its own logits, so that
                 only what *other* tokens find in the cache differs.

Everything is one parallel pass over a text, with the similarity gate and one tau for all layers.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from builders.decoder import DecoderLayer, RiverDecoder
from builders.dialect import cosine, rotate
from builders.position_tables import rotary_names
from river_trt.errors import RiverError

Strategy = Literal["share", "recompute", "propagate", "mask", "monotone"]
Readout = Literal["exit state", "river"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
READOUTS: tuple[Readout, ...] = get_args(Readout)
FAMILY = "llama"  # whose attention is written out here

LayerCache = tuple[Tensor, Tensor]  # K (rotated), V: [num_kv_heads, seq, head_dim]


@dataclass(frozen=True, slots=True, eq=False)
class StrategyRun:
    """One strategy on one text."""

    logits: Tensor  # [seq, vocab]
    exit_layer: Tensor  # [seq] 1..L
    river_layers: Tensor  # [seq] run on the river
    recomputed_layers: Tensor  # [seq] run on the backbone later, to fill the cache
    projected_layers: Tensor  # [seq] whose K and V were projected from the exit state
    caches: list[LayerCache]  # what later tokens see


@torch.inference_mode()
def run_strategy(
    decoder: RiverDecoder,
    token_ids: Tensor,  # [seq] int64
    tau: float,
    strategy: Strategy,
    readout: Readout,
    full_depth: StrategyRun | None = None,  # of the same text; recompute reads its cache
) -> StrategyRun:
    """tau = inf is the plain model under every strategy. Raises RiverError for another family."""
    config = decoder.config
    if config.family != FAMILY:
        raise RiverError(f"KV strategies are written for {FAMILY} models, not {config.family}")
    assert strategy != "recompute" or full_depth is not None or tau == float("inf")
    on_river = readout == "river" or strategy == "share"
    seq, num_layers = len(token_ids), config.num_layers
    h = torch.nn.functional.embedding(token_ids, decoder.embedding)[None]  # [1, seq, hidden]
    exited = torch.zeros(1, seq, dtype=torch.bool)
    exit_layer = torch.full((1, seq), num_layers)
    exit_state = h
    causal = torch.ones(seq, seq, dtype=torch.bool).tril()
    cos, sin = (decoder.get_buffer(name)[:seq] for name in rotary_names(0))
    rotary = (cos, sin)
    caches: list[LayerCache] = []
    for index, layer in enumerate(decoder.layers):
        assert isinstance(layer, DecoderLayer)
        use_river = exited & on_river
        q, *own = _project(layer, h, use_river, rotary)
        seen, visible = (own[0], own[1]), causal
        if strategy == "recompute" and full_depth is not None:
            seen = full_depth.caches[index]
        elif strategy == "propagate":
            _, k, v = _project(layer, exit_state, torch.zeros_like(exited), rotary)
            skipped = exited[0, :, None]
            seen = torch.where(skipped, k, own[0]), torch.where(skipped, v, own[1])
        elif strategy == "mask":
            visible = causal & (~exited | torch.eye(seq, dtype=torch.bool))
        caches.append(seen)
        attended = _attend(q, seen, (own[0], own[1]), visible, config.attention_scale)
        h_out = h + layer.self_attn.o_proj(attended, use_river)
        h_out = h_out + layer.mlp(layer.post_attention_norm(h_out), use_river)
        if not on_river:  # an exited token stays as it left
            h_out = torch.where(exited[..., None], h, h_out)
        passed = exited | (cosine(h, h_out) > tau)
        if strategy == "monotone":  # who comes later has exited too
            passed = passed.int().cummax(dim=1).values.bool()
        first = passed & ~exited
        exit_layer = torch.where(first, index + 1, exit_layer)
        exit_state = torch.where(passed[..., None] & ~first[..., None], exit_state, h_out)
        exited, h = passed, h_out
    logits = torch.nn.functional.linear(decoder.norm(h[0]), decoder.lm_head)
    skipped_layers, none = num_layers - exit_layer[0], torch.zeros(seq, dtype=torch.int64)
    return StrategyRun(
        logits=logits,
        exit_layer=exit_layer[0],
        river_layers=skipped_layers if on_river else none,
        recomputed_layers=skipped_layers if strategy == "recompute" else none,
        projected_layers=skipped_layers if strategy == "propagate" else none,
        caches=caches,
    )


def _project(
    layer: DecoderLayer, h: Tensor, use_river: Tensor, rotary: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """q [num_heads, seq, D], k and v [num_kv_heads, seq, D]; q and k rotated."""
    attention = layer.self_attn
    sizes = (attention.num_heads, attention.num_kv_heads, attention.num_kv_heads)
    qkv = attention.qkv_proj(layer.input_norm(h), use_river)[0]  # [seq, ...]
    q, k, v = (
        part.view(len(qkv), heads, -1).transpose(0, 1)
        for part, heads in zip(
            qkv.split([heads * attention.head_dim for heads in sizes], dim=-1), sizes, strict=True
        )
    )
    return rotate(q, *rotary), rotate(k, *rotary), v


def _attend(
    q: Tensor,  # [num_heads, seq, D]
    seen: LayerCache,  # of the other tokens
    own: LayerCache,  # a token sees its own K and V as it computed them
    visible: Tensor,  # [seq, seq] bool
    scale: float,
) -> Tensor:
    """[1, seq, num_heads * D]."""
    groups = len(q) // len(own[0])
    (k, v), (own_k, own_v) = (
        tuple(part.repeat_interleave(groups, dim=0) for part in pair) for pair in (seen, own)
    )
    scores = (q @ k.transpose(1, 2)) * scale  # [num_heads, seq, seq]
    own_scores = (q * own_k).sum(-1) * scale
    scores.diagonal(dim1=1, dim2=2).copy_(own_scores)
    weights = scores.masked_fill(~visible, float("-inf")).softmax(-1)
    own_weights = weights.diagonal(dim1=1, dim2=2)[..., None].clone()
    weights.diagonal(dim1=1, dim2=2).zero_()
    out = weights @ v + own_weights * own_v
    return out.transpose(0, 1).flatten(1)[None]
