"""Where a lossless greedy text leaves the full-depth one, if it does, and by how little."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from river_trt.engine import Engine
from river_trt.spec import ExitPolicy

NEAR = 1e-4  # logits nearer than this may change places by rounding


@dataclass(frozen=True, slots=True)
class Flip:
    """The first difference of two greedy texts of one prompt."""

    position: int  # of the generated tokens, from 0
    full_depth: int  # token ids
    lossless: int
    gap: float  # between the two tokens' logits at full depth

    @property
    def is_near_tie(self) -> bool:
        return self.gap <= NEAR

    def __str__(self) -> str:
        kind = "a near tie" if self.is_near_tie else "NO near tie"
        return (
            f"token {self.position}: {self.lossless} in place of {self.full_depth}, whose logits "
            f"lie {self.gap:.2g} apart, {kind}"
        )


def first_flip(
    engine: Engine, prompt: Sequence[int], full_depth: Sequence[int], lossless: Sequence[int]
) -> Flip | None:
    """None where the texts are equal. Runs a pass over the engine's first cache row where not."""
    differing = (i for i, (a, b) in enumerate(zip(full_depth, lossless, strict=True)) if a != b)
    position = next(differing, None)
    if position is None:
        return None
    ids = np.array([[*prompt, *full_depth[:position]]])
    policy = ExitPolicy.full_depth(engine.num_layers)
    logits, _ = engine.forward(ids, policy, logit_indices=np.array([ids.shape[1] - 1]))
    a, b = full_depth[position], lossless[position]
    return Flip(position, a, b, abs(float(logits[0, 0, a] - logits[0, 0, b])))
