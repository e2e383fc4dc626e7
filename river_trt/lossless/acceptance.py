"""Speculative sampling: which token stands where one was drafted (arXiv:2211.17192)."""

import numpy as np

from river_trt.sampling import Distribution


def verify_token(
    drafted: int,
    draft: Distribution,  # what `drafted` was drawn from
    target: Distribution,  # what the token must be distributed as
    generator: np.random.Generator,
) -> int:
    """The drafted token with probability min(1, target / draft), else one of what is left.

    The token returned is distributed exactly as `target`. With greedy distributions, which hold
    one token each, it is the target's.
    """
    (share,) = target.probabilities(np.array([drafted]))
    (drafted_share,) = draft.probabilities(np.array([drafted]))
    if generator.random() * drafted_share < share:
        return drafted
    token_ids = target.token_ids
    left = (target.weights / target.weights.sum() - draft.probabilities(token_ids)).clip(min=0)
    if not left.any():  # equal but for rounding: nothing was lost with the rejection
        left = target.weights
    return Distribution(token_ids, left).draw(generator)
