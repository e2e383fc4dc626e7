"""The LM head's river: rare tokens in 4 bits, for tokens that left the backbone.

Errors of the likely tokens are what a distribution feels, and vocabularies number their tokens by
how often they come. So the first of them are read from the head itself, by every token.
"""

from functools import partial

import torch
from torch import Tensor

from builders.families import ModelConfig
from builders.quantisers.awq import fit_clipped, search_pre_scale
from builders.quantisers.base import RiverWeight, quantise_rows, to_groups
from builders.river_bank import LayerWatch
from builders.tuning.rounding import round_rows
from builders.weights import LayerWeights, SharedWeights
from river_trt.errors import RiverError
from river_trt.weight_panels import PANEL

RARE_SHARE = 6  # one in so many tokens is frequent
SEARCH_ROWS = 4096  # of the head, that the input scaling is found for
DAMPING = 0.1  # of the curvature: the text is short, and it is the only one


def frequent_tokens(vocab: int) -> int:
    """The first ids of a vocabulary, whole panels. RiverError for one that is too small."""
    found = vocab // RARE_SHARE // PANEL * PANEL
    if not found:
        raise RiverError(
            f"--river-head-bits needs a vocabulary of {RARE_SHARE * PANEL} tokens, and this one "
            f"has {vocab}: leave it out"
        )
    return found


class HeadInputs:
    """What the head is given while the layers of a build go by, for a watch of them or for none."""

    def __init__(self, token_ids: Tensor | None, watch: LayerWatch | None) -> None:
        """token_ids: text for a quantiser that reads none, [texts, tokens]."""
        self._token_ids, self._watch = token_ids, watch
        self._last: Tensor | None = None

    def token_ids(self) -> Tensor | None:
        """As of a LayerWatch."""
        return self._token_ids

    def layer(
        self, weights: LayerWeights, river: dict[str, RiverWeight], before: Tensor, after: Tensor
    ) -> None:
        """As of a LayerWatch."""
        self._last = after
        if self._watch is not None:
            self._watch.layer(weights, river, before, after)

    def rows(self, config: ModelConfig, shared: SharedWeights) -> Tensor:
        """float32 [tokens, hidden]."""
        assert self._last is not None, "some layer went by"
        norm = shared.final_norm
        return torch.nn.functional.rms_norm(
            self._last.flatten(0, 1), norm.shape, norm, config.norm_eps
        )


@torch.no_grad()
def quantise_rare(
    head: Tensor,  # [vocab, hidden], any float dtype
    inputs: Tensor,  # float32 [tokens, hidden]
    frequent: int,
    group_size: int,
) -> RiverWeight:
    """The rows from `frequent` on: AWQ's grid, found on some rows, and GPTQ's rounding to it."""
    rare = head[frequent:].float()
    some = rare[:: max(1, len(rare) // SEARCH_ROWS)]
    pre_scale = search_pre_scale(some, inputs, group_size)
    energy = to_groups((inputs * pre_scale).square().mean(0)[None], group_size)
    grid = quantise_rows(
        rare / pre_scale,
        partial(fit_clipped, energy, False),
        group_size=group_size,
        symmetric=False,
        pre_scale=pre_scale,
    )
    return round_rows(rare, grid, inputs.T @ inputs / len(inputs), DAMPING)
