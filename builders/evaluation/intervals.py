"""Confidence intervals by the bootstrap over pieces of text, or over questions."""

from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and its 95 % interval. With one piece there is no interval: low and high are None."""

    value: float
    low: float | None = None
    high: float | None = None


def bootstrap_mean(
    sums: np.ndarray,  # [pieces] float64: sums over the positions of each piece
    counts: np.ndarray,  # [pieces]: how many positions
    seed: int = 0,
) -> Estimate:
    """Mean over all positions. Whole pieces are drawn, because positions of one hang together.

    The same seed and the same pieces draw the same resamples: intervals of two policies on one
    text are comparable.
    """
    pieces = len(sums)
    assert pieces == len(counts) > 0
    value = float(sums.sum() / counts.sum())
    if pieces == 1:
        return Estimate(value)
    drawn = np.random.default_rng(seed).integers(0, pieces, (RESAMPLES, pieces))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return Estimate(value, float(low), float(high))
