"""What a session that chooses tokens is told of its rows."""

from collections.abc import Container, Sequence
from typing import Any

import numpy as np

from river_trt.backends.base import Draws
from river_trt.row import Row
from river_trt.sampling import LARGEST, TINY, Sampling

IDLE = Sampling()  # of rows that only stand in a step


def draws_of(rows: Sequence[Row]) -> Draws:
    """Of the rows of a step, in their order; a row that stands twice draws once.

    Each sampled row's generator gives one number, as `sampling.sample` takes it.
    """
    if all(map(_is_plain, rows)):
        return Draws.greedy(len(rows))
    drawn = {
        row: 0.0 if row.sampling.is_greedy else row.generator.random()
        for row in dict.fromkeys(rows)
    }
    uniform = np.array([drawn[row] for row in rows])
    return _draws([row.sampling for row in rows], uniform, [row.seen for row in rows])


def _is_plain(row: Row) -> bool:
    """It takes its best logit, whatever was before."""
    return row.sampling.is_greedy and row.seen is None


def drafting_draws(
    places: Sequence[Row],
    wanted: Container[Row],  # the others only stand there
) -> Draws:
    """Of a draft step: one more token for each of the rows wanted."""
    told = [_draft_of(row) if row in wanted else (IDLE, 0.0, None, -1) for row in places]
    ways, uniform, seen, indices = zip(*told, strict=True)
    return _draws(
        ways,
        np.array(uniform),
        seen,
        wants_leads=any(row in wanted and row.sampling.is_greedy for row in places),
        draft_indices=np.array(indices) if max(indices) >= 0 else None,
    )


def _draft_of(row: Row) -> tuple[Sampling, float, np.ndarray | None, int]:
    """How its next token is drafted, with which number, and which of its draft that is."""
    assert row.draft is not None
    drafted, seen = row.draft.token_ids, row.seen
    if seen is not None:
        seen = seen.copy()
        seen[drafted] = True
    if row.sampling.is_greedy:
        return row.sampling, 0.0, seen, -1
    return row.sampling, row.generator.random(), seen, len(drafted)


def verifying_draws(
    places: Sequence[Row],
    wanted: Container[Row],  # the others only stand there
    num_logits: int,
) -> Draws:
    """Of a verification. The numbers are looked up: whoever takes a token draws what it took."""
    if all(_is_plain(row) for row in places if row in wanted):
        return Draws.greedy(len(places))
    uniform = np.zeros((len(places), num_logits))
    drafted = np.zeros(len(places), np.int64)
    for place, row in enumerate(places):
        if row not in wanted:
            continue
        assert row.draft is not None
        drafted[place] = count = len(row.draft.token_ids)
        if not row.sampling.is_greedy:
            before = row.generator.bit_generator.state
            uniform[place, : count + 1] = row.generator.random(count + 1)
            row.generator.bit_generator.state = before
    return _draws(
        [row.sampling if row in wanted else IDLE for row in places],
        uniform,
        [row.seen if row in wanted else None for row in places],
        drafted=drafted,
    )


def _draws(
    ways: Sequence[Sampling],
    uniform: np.ndarray,
    seen: Sequence[np.ndarray | None],  # [vocab] of each row
    **more: Any,
) -> Draws:
    known = [row for row in seen if row is not None]
    together = None
    if known:
        nothing = np.zeros(len(known[0]), np.bool_)
        together = np.stack([nothing if row is None else row for row in seen])
    return Draws(
        np.array([way.temperature for way in ways]).clip(max=LARGEST).astype(np.float32),
        np.array([way.top_k for way in ways], np.int32),
        np.array([way.top_p for way in ways], np.float32),
        np.array([way.min_p for way in ways], np.float32),
        np.array([way.repetition_penalty for way in ways]).clip(TINY, LARGEST).astype(np.float32),
        uniform,
        together,
        **more,
    )
