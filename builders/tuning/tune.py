"""The river's codes chosen anew, by what their errors cost the whole model.

beginnings -- backbone writes -- texts -- backward through the backbone -- curvature of each linear
                                                  AWQ's river -- rounded again by it -- river

Scales, zero points and input scalings stay AWQ's, so no byte is added.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from builders.families import ModelConfig
from builders.memory import available_memory
from builders.quantisers.base import RiverWeight
from builders.source import ModelSource
from builders.tuning.backbone import Backbone
from builders.tuning.curvature import POSITIONS_AT_ONCE, TOKENS_AT_ONCE, measure_curvature
from builders.tuning.rounding import round_by_curvature
from builders.tuning.writing import BEGINNING, write_texts
from builders.weights import SharedWeights
from river_trt.errors import RiverError
from river_trt.progress import Progress

TEXTS, TOKENS = 320, 160  # that the model writes
LAYERS_AT_ONCE = 8  # rounded
BYTES_A_WEIGHT = 7  # backbone in float32 and for the products, river
ARRAYS_OF_A_LINEAR = 8  # while it is rounded
ARRAYS_OF_A_DISTRIBUTION = 3  # logits, their logarithms, gradients


@torch.no_grad()
def tune_river(
    source: ModelSource,
    shared: SharedWeights,
    rivers: Sequence[dict[str, RiverWeight]],  # of each layer, down's input scaling not folded
    token_ids: Tensor,  # [texts, tokens], of which the model is given a few at a time to go on from
    progress: Progress,
) -> list[dict[str, RiverWeight]]:
    """The rivers with other codes; the same every time on one machine.

    The backbone is in memory as a whole, and so is the curvature.
    """
    tokens = min(TOKENS, source.config.max_position_embeddings)
    backbone = Backbone(source, shared, tokens)
    texts = write_texts(backbone, _beginnings(token_ids), tokens, progress)
    curvatures = measure_curvature(backbone, texts, progress)
    del backbone
    tuned = [dict(river) for river in rivers]
    # The first layer never runs its river.
    layers, done = range(1, len(rivers)), 0
    for first in range(1, len(rivers), LAYERS_AT_ONCE):
        some = layers[first - 1 : first - 1 + LAYERS_AT_ONCE]
        weights = {index: source.layer(index).linears for index in some}
        for name in rivers[0]:
            found = round_by_curvature(
                [weights[index][name].float() for index in some],
                [rivers[index][name] for index in some],
                [curvatures[index].pop(name) for index in some],
            )
            for index, river in zip(some, found, strict=True):
                tuned[index][name] = river
        done += len(some)
        progress("rounding", done, len(layers))
    return tuned


def _beginnings(token_ids: Tensor) -> Tensor:
    """[TEXTS, BEGINNING], spread over the texts."""
    each = min(BEGINNING, token_ids.shape[1])
    pieces = token_ids[:, : token_ids.shape[1] // each * each].reshape(-1, each)
    return pieces[torch.linspace(0, len(pieces) - 1, TEXTS).long()]


def bytes_needed(config: ModelConfig, num_parameters: int) -> int:
    """About: both banks, curvature, and the most of one step of writing, reading and rounding."""
    shapes = config.linear_shapes
    squares = sum(n * n + k * k for n, k in shapes.values()) - shapes["gate_up"][0] ** 2 // 2
    widths = sum(n + k for n, k in shapes.values())
    a_cache = config.num_layers * 2 * config.num_kv_heads * config.head_dim
    writing = 4 * TEXTS * TOKENS * a_cache
    reading = 4 * TOKENS_AT_ONCE * config.num_layers * 3 * widths
    reading += 4 * POSITIONS_AT_ONCE * config.vocab_size * ARRAYS_OF_A_DISTRIBUTION
    n, k = max(shapes.values(), key=lambda shape: shape[0] * shape[1])
    rounding = 4 * LAYERS_AT_ONCE * (ARRAYS_OF_A_LINEAR * n * k + n * n // 2 + k * k)
    curvature = 4 * config.num_layers * squares
    return BYTES_A_WEIGHT * num_parameters + max(writing, curvature + max(reading, rounding))


def check_memory(source: ModelSource) -> None:
    """RiverError where the model cannot be tuned in what is free."""
    needed, available = bytes_needed(source.config, source.num_parameters), available_memory()
    if available is not None and needed > available:
        raise RiverError(
            f"the quantiser tuned needs about {needed / 1e9:.1f} GB of memory and "
            f"{available / 1e9:.1f} GB are free; choose --quantiser awq, which needs one layer's"
        )
