"""What a session that chooses tokens is told of its rows."""

from collections.abc import Sequence

import numpy as np

from river_trt.backends.base import Draws
from river_trt.row import Row


def draws_of(rows: Sequence[Row]) -> Draws:
    """Of the rows of a step, in their order; a row that stands twice draws once.

    Each sampled row's generator gives one number, as `sampling.sample` takes it.
    """
    configs = [row.config for row in rows]
    drawn = {
        row: row.generator.random() if row.config.temperature else 0.0
        for row in dict.fromkeys(rows)
    }
    seen = None
    if any(row.seen is not None for row in rows):
        vocab = next(len(row.seen) for row in rows if row.seen is not None)
        nothing = np.zeros(vocab, np.bool_)
        seen = np.stack([nothing if row.seen is None else row.seen for row in rows])
    return Draws(
        np.array([config.temperature for config in configs], np.float32),
        np.array([config.top_k for config in configs], np.int32),
        np.array([config.top_p for config in configs], np.float32),
        np.array([config.min_p for config in configs], np.float32),
        np.array([config.repetition_penalty for config in configs], np.float32),
        np.array([drawn[row] for row in rows]),
        seen,
    )
