"""Tables over positions that the decoder reads: rotary cos and sin, and the query scale.

`position_tables` names them as the traced program's buffers are named, so a backend writes what
the program asks for.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from builders.families.base import LayerSpec, ModelConfig, QueryScaling, Rope

# cos and sin of a layer, [positions, rotary_dim / 2] each; None for a layer without rotary.
Rotary = tuple[Tensor, Tensor] | None

QUERY_SCALE = "query_scale"


def position_tables(config: ModelConfig, max_seq_len: int) -> dict[str, Tensor]:
    """rotary_cos and rotary_sin of each kind of layer, float32 [max_seq_len, rotary_dim / 2], and
    query_scale [max_seq_len, 1] where the queries' scale is not 1 throughout.

    Kinds of layers after the first have a number: rotary_cos_1.
    """
    positions = torch.arange(max_seq_len, dtype=torch.float32)[:, None]
    tables: dict[str, Tensor] = {}
    for index, rope in enumerate(config.ropes):
        cos, sin = rotary_names(index)
        tables[cos], tables[sin] = _rotary(rope, positions)
    scaling = config.query_scaling
    if scaling is not None and max_seq_len > scaling.period:
        tables[QUERY_SCALE] = _query_scale(scaling, positions)
    return tables


def rotary_names(rope: int) -> tuple[str, str]:
    suffix = f"_{rope}" if rope else ""
    return f"rotary_cos{suffix}", f"rotary_sin{suffix}"


def layer_rotary(tables: Mapping[str, Tensor], layer: LayerSpec) -> Rotary:
    """The tables that a layer rotates its queries and keys by."""
    if layer.rope is None:
        return None
    cos, sin = rotary_names(layer.rope)
    return tables[cos], tables[sin]


def query_scale(
    tables: Mapping[str, Tensor],
    past_lengths: Tensor,  # [batch] int32
    tokens: Tensor,  # [batch, seq] of any type: its shape counts
) -> Tensor | None:
    """What the queries are multiplied by, [batch, seq, 1]; None if by 1."""
    if QUERY_SCALE not in tables:
        return None
    # No arange and no cast: they would tie the traced program to the device of the trace.
    steps = torch.ones_like(tokens, dtype=torch.int64).cumsum(1) - 1
    positions = past_lengths[:, None] + steps
    return torch.nn.functional.embedding(positions, tables[QUERY_SCALE])


def _rotary(rope: Rope, positions: Tensor) -> tuple[Tensor, Tensor]:
    angles = positions * torch.tensor(rope.inv_freq, dtype=torch.float32)
    return angles.cos() * rope.factor, angles.sin() * rope.factor


def _query_scale(scaling: QueryScaling, positions: Tensor) -> Tensor:
    return 1 + scaling.beta * torch.log1p(torch.floor(positions / scaling.period))
