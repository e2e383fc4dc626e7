"""Rotary frequencies, for every kind of RoPE scaling whose angles depend on the position alone."""

from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from builders.families.base import Rope
from river_trt.errors import CheckpointError

ROPE_TYPES = ("default", "linear", "llama3", "yarn", "longrope")


def read_rope(config: PreTrainedConfig, head_dim: int, layer_type: str | None = None) -> Rope:
    """The frequencies of a transformers config, or of its layers of one type.

    Of LongRoPE's two lists of factors the short one; `fixed_rope_positions` says up to where that
    is right. `dynamic` scaling is refused: its angles change with the length of the sequence,
    which the cached keys cannot follow.
    """
    rope = _parameters(config, layer_type)
    kind = rope["rope_type"]
    if kind not in ROPE_TYPES:
        raise CheckpointError(
            f"RoPE scaling {kind!r} is not supported; supported: {', '.join(ROPE_TYPES)}"
        )
    if kind == "default":
        rotary_dim = int(head_dim * rope.get("partial_rotary_factor", 1.0))
        exponents = torch.arange(0, rotary_dim, 2, dtype=torch.float32) / rotary_dim
        return Rope(tuple((1.0 / rope["rope_theta"] ** exponents).tolist()))
    if kind == "longrope" and layer_type is not None:
        raise CheckpointError("RoPE scaling 'longrope' for some layers only is not supported")
    compute = ROPE_INIT_FUNCTIONS[kind]
    inv_freq, factor = compute(config, torch.device("cpu"), layer_type=layer_type)
    return Rope(tuple(inv_freq.float().tolist()), float(factor))


def fixed_rope_positions(config: PreTrainedConfig) -> int | None:
    """The longest sequence on LongRoPE's short factors; None if all lengths have the same."""
    rope = _parameters(config, None)
    if rope["rope_type"] != "longrope" or rope["short_factor"] == rope["long_factor"]:
        return None
    return int(rope["original_max_position_embeddings"])


def _parameters(config: PreTrainedConfig, layer_type: str | None) -> dict[str, Any]:
    rope: dict[str, Any] = config.rope_parameters
    return rope if layer_type is None else rope[layer_type]
