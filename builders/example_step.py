"""The inputs of the step that a program is traced with. Needs torch alone."""

import torch
from torch import Tensor

from builders.families import ModelConfig

# All sizes differ, so that no two dynamic axes are taken for one.
_BATCH, _SEQ, _CACHE, _NUM_LOGITS = 2, 3, 7, 5


def example_step(
    config: ModelConfig, cache_dtype: torch.dtype = torch.float32
) -> tuple[list[Tensor], list[Tensor]]:
    """Step and policy inputs, and the 2 L caches, in the order of river_trt.spec.

    On torch's default device.
    """
    layers = config.num_layers
    cache = (_BATCH, config.num_kv_heads, _CACHE, config.head_dim)
    inputs = [
        torch.zeros(_BATCH, _SEQ, dtype=torch.int64),
        torch.zeros(_BATCH, dtype=torch.int32),
        torch.zeros(_NUM_LOGITS, dtype=torch.int64),
        torch.zeros(layers),
        torch.zeros(layers, dtype=torch.bool),
        torch.zeros((), dtype=torch.bool),
        torch.zeros(layers, config.hidden_size),
        torch.zeros((), dtype=torch.int32),
    ]
    return inputs, [torch.zeros(cache, dtype=cache_dtype) for _ in range(2 * layers)]
