"""A layer's tensors as one rank holds them: its rows or columns, padded, packed for RiverLinear."""

import dataclasses
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from builders.families import ModelConfig
from builders.quantisers.base import SYMMETRIC_ZERO, RiverWeight
from builders.river_bank import LayerBanks
from builders.tensorrt_llm.parameters import LINEARS, NORMS
from builders.tensorrt_llm.sharding import Shard, Sharding

ZERO_BYTE = SYMMETRIC_ZERO | SYMMETRIC_ZERO << 4


def fold_rotary_factor(banks: LayerBanks, config: ModelConfig, layer: int) -> LayerBanks:
    """Move the factor of YaRN's and LongRoPE's angles into what makes q and k.

    gpt_attention takes angles without a factor. A rotation is linear, so it may come before: into
    the rows of q and k, or into the weights of their norms. The cache stays what it was.
    """
    rope = config.layers[layer].rope
    factor = 1.0 if rope is None else config.ropes[rope].factor
    if rope is None or factor == 1.0:
        return banks
    weights, rotated = banks.weights, 2 * len(config.ropes[rope].inv_freq)
    head = torch.ones(config.head_dim)
    head[:rotated] = factor
    if config.qk_norms:
        norms = {name: weights.norms[name] * head for name in ("q_norm", "k_norm")}
        return dataclasses.replace(
            banks, weights=dataclasses.replace(weights, norms=weights.norms | norms)
        )
    heads = config.num_heads + config.num_kv_heads
    rows = torch.cat([head.repeat(heads), torch.ones(config.num_kv_heads * config.head_dim)])
    linears = {"qkv": weights.linears["qkv"] * rows[:, None]}
    biases = {"qkv": weights.biases["qkv"] * rows} if "qkv" in weights.biases else {}
    scaled = dataclasses.replace(
        weights, linears=weights.linears | linears, biases=weights.biases | biases
    )
    return LayerBanks(scaled, banks.river | {"qkv": banks.river["qkv"].scale_rows(rows)})


def rank_layer(
    banks: LayerBanks, config: ModelConfig, sharding: Sharding, rank: int, has_river: bool
) -> dict[str, Tensor]:
    """Tensors of one layer by their names below the layer (parameters.py)."""
    weights = banks.weights
    tensors = {f"{NORMS[norm]}.weight": weight for norm, weight in weights.norms.items()}
    for linear, path in LINEARS.items():
        rows, columns = _parts(linear, config, sharding, rank)
        weight = take(weights.linears[linear], 0, rows)
        tensors[f"{path}.weight"] = take(weight, 1, columns) if columns else weight
        if linear in weights.biases:
            bias = take(weights.biases[linear], 0, rows)
            # Ranks are summed after a row-parallel linear: one of them brings the bias.
            tensors[f"{path}.bias"] = bias * 0 if columns and rank else bias
        if has_river:
            river = take_river(banks.river[linear], rows, columns)
            tensors |= {f"{path}.{part}": tensor for part, tensor in pack(river).items()}
    return tensors


def take(tensor: Tensor, axis: int, shards: Sequence[Shard] | None, fill: float = 0) -> Tensor:
    """The shards of an axis one after another, each padded with `fill` to its length; None: all."""
    if shards is None:
        return tensor
    parts = []
    for shard in shards:
        part = tensor.narrow(axis, shard.start, shard.stop - shard.start)
        padding = shard.length - (shard.stop - shard.start)
        after = [0, 0] * (tensor.ndim - 1 - axis) + [0, padding]
        parts.append(F.pad(part, after, value=fill) if padding else part)
    return torch.cat(parts, axis)


def take_river(
    river: RiverWeight, rows: Sequence[Shard] | None, columns: Sequence[Shard] | None
) -> RiverWeight:
    """The same shards of a river weight; columns begin where a group begins, padding is zero."""
    zero_byte = ZERO_BYTE if river.zero_points is None else 0  # the code of zero, twice
    groups = None
    if columns is not None:
        size = river.group_size
        assert all(shard.start % size == 0 for shard in columns)
        groups = [
            Shard(shard.start // size, -(-shard.stop // size), -(-shard.length // size))
            for shard in columns
        ]

    def part(tensor: Tensor, fill: int = 0) -> Tensor:
        return take(take(tensor, 0, rows, fill), 1, groups, fill)

    zero_points, pre_scale = river.zero_points, river.pre_scale
    return RiverWeight(
        qweight=part(river.qweight, zero_byte),
        scales=part(river.scales),
        zero_points=None if zero_points is None else part(zero_points),
        pre_scale=None if pre_scale is None else take(pre_scale, 0, columns),
    )


def pack(river: RiverWeight) -> dict[str, Tensor]:
    """RiverLinear's inputs: the dialect's bytes, four to an int32."""
    tensors = {"qweight": _words(river.qweight.flatten(1)), "scales": river.scales}
    if river.zero_points is not None:
        tensors["zero_points"] = _words(river.zero_points.flatten())
    if river.pre_scale is not None:
        tensors["pre_scale"] = river.pre_scale
    return tensors


def _words(values: Tensor) -> Tensor:
    return F.pad(values, [0, -values.shape[-1] % 4]).contiguous().view(torch.int32)


def _parts(
    linear: str, config: ModelConfig, sharding: Sharding, rank: int
) -> tuple[list[Shard] | None, list[Shard] | None]:
    """Rows and columns of a linear on a rank; None: all of them."""
    if linear == "qkv":
        heads, kv = sharding.heads[rank], sharding.kv_heads[rank]
        k_start, v_start = config.num_heads, config.num_heads + config.num_kv_heads
        q_k_v = [
            heads,
            *(Shard(start + kv.start, start + kv.stop, kv.length) for start in (k_start, v_start)),
        ]
        return [shard.times(config.head_dim) for shard in q_k_v], None
    if linear == "o":
        return None, [sharding.heads[rank].times(config.head_dim)]
    mlp, total = sharding.intermediate[rank], config.intermediate_size
    if linear == "gate_up":
        return [mlp, Shard(total + mlp.start, total + mlp.stop, mlp.length)], None
    return None, [mlp]
