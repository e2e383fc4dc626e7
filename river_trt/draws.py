"""What a session that chooses tokens is told of its rows."""

from collections.abc import Sequence

import numpy as np

from river_trt.backends.base import Draws
from river_trt.row import Row
from river_trt.sampling import LARGEST, TINY


def draws_of(rows: Sequence[Row]) -> Draws:
    """Of the rows of a step, in their order; a row that stands twice draws once.

    Each sampled row's generator gives one number, as `sampling.sample` takes it.
    """
    ways = [row.sampling for row in rows]
    drawn = {
        row: 0.0 if row.sampling.is_greedy else row.generator.random()
        for row in dict.fromkeys(rows)
    }
    seen = None
    if any(row.seen is not None for row in rows):
        vocab = next(len(row.seen) for row in rows if row.seen is not None)
        nothing = np.zeros(vocab, np.bool_)
        seen = np.stack([nothing if row.seen is None else row.seen for row in rows])
    return Draws(
        np.array([way.temperature for way in ways]).clip(max=LARGEST).astype(np.float32),
        np.array([way.top_k for way in ways], np.int32),
        np.array([way.top_p for way in ways], np.float32),
        np.array([way.min_p for way in ways], np.float32),
        np.array([way.repetition_penalty for way in ways]).clip(TINY, LARGEST).astype(np.float32),
        np.array([drawn[row] for row in rows]),
        seen,
    )
