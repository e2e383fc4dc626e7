"""Rotary frequencies, for every kind of RoPE scaling whose angles depend on the position alone."""

import torch
from transformers import PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from river_trt.errors import CheckpointError

ROPE_TYPES = ("default", "linear", "llama3", "yarn", "longrope")


def read_rope(config: PreTrainedConfig) -> tuple[tuple[float, ...], float]:
    """(inv_freq [rotary_dim / 2], factor that multiplies cos and sin) of a transformers config.

    `dynamic` scaling, and `longrope` with two different lists of factors, are refused: their
    angles change with the length of the sequence, which the cached keys cannot follow.
    """
    rope = config.rope_parameters
    kind = rope["rope_type"]
    if kind not in ROPE_TYPES:
        raise CheckpointError(
            f"RoPE scaling {kind!r} is not supported; supported: {', '.join(ROPE_TYPES)}"
        )
    if kind == "longrope" and rope["short_factor"] != rope["long_factor"]:
        raise CheckpointError("RoPE scaling 'longrope' with two factor lists is not supported")
    if kind == "default":
        rotary_dim = int(config.head_dim * rope.get("partial_rotary_factor", 1.0))
        exponents = torch.arange(0, rotary_dim, 2, dtype=torch.float32) / rotary_dim
        return tuple((1.0 / rope["rope_theta"] ** exponents).tolist()), 1.0
    inv_freq, factor = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
    return tuple(inv_freq.float().tolist()), float(factor)
