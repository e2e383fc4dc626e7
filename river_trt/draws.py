"""What a session that chooses tokens is told of its rows."""

from collections.abc import Container, Sequence
from typing import Any

import numpy as np

from river_trt.backends.base import Draws
from river_trt.row import Row
from river_trt.sampling import LARGEST, NO_EDIT, TINY, Edit, Sampling

IDLE = Sampling()  # of rows that only stand in a step


def draws_of(rows: Sequence[Row]) -> Draws:
    """Of the rows of a step, in their order; a row that stands twice draws once.

    Each sampled row's generator gives one number, as `sampling.sample` takes it.
    """
    wants_logprobs = any(map(_wants_logprobs, rows))
    if all(map(_is_plain, rows)) and not wants_logprobs:
        return Draws.greedy(len(rows))
    drawn = {
        row: 0.0 if row.sampling.is_greedy else row.generator.random()
        for row in dict.fromkeys(rows)
    }
    uniform = np.array([drawn[row] for row in rows])
    return _draws(
        [row.sampling for row in rows],
        uniform,
        [[row.edits.after()] for row in rows],
        wants_logprobs=wants_logprobs,
    )


def _is_plain(row: Row) -> bool:
    """It takes its best logit, whatever was before."""
    return row.sampling.is_greedy and row.edits.is_empty


def _wants_logprobs(row: Row) -> bool:
    return row.config.logprobs is not None


def drafting_draws(
    places: Sequence[Row],
    wanted: Container[Row],  # the others only stand there
) -> Draws:
    """Of a draft step: one more token for each of the rows wanted."""
    told = [_draft_of(row) if row in wanted else (IDLE, 0.0, NO_EDIT, -1) for row in places]
    ways, uniform, edits, indices = zip(*told, strict=True)
    return _draws(
        ways,
        np.array(uniform),
        [[edit] for edit in edits],
        wants_leads=any(row in wanted and row.sampling.is_greedy for row in places),
        draft_indices=np.array(indices) if max(indices) >= 0 else None,
    )


def _draft_of(row: Row) -> tuple[Sampling, float, Edit, int]:
    """How its next token is drafted, with which number, and which of its draft that is."""
    assert row.draft is not None
    drafted = row.draft.token_ids
    edit = row.edits.after(drafted)
    if row.sampling.is_greedy:
        return row.sampling, 0.0, edit, -1
    return row.sampling, row.generator.random(), edit, len(drafted)


def verifying_draws(
    places: Sequence[Row],
    wanted: Container[Row],  # the others only stand there
    num_logits: int,
) -> Draws:
    """Of a verification. The numbers are looked up: whoever takes a token draws what it took."""
    wants_logprobs = any(_wants_logprobs(row) for row in places if row in wanted)
    if all(_is_plain(row) for row in places if row in wanted) and not wants_logprobs:
        return Draws.greedy(len(places))
    edits = [[NO_EDIT] * num_logits for _ in places]
    uniform = np.zeros((len(places), num_logits))
    drafted = np.zeros(len(places), np.int64)
    for place, row in enumerate(places):
        if row not in wanted:
            continue
        assert row.draft is not None
        drafted[place] = count = len(row.draft.token_ids)
        for index in range(count + 1):
            edits[place][index] = row.edits.after(row.draft.token_ids[:index])
        if not row.sampling.is_greedy:
            before = row.generator.bit_generator.state
            uniform[place, : count + 1] = row.generator.random(count + 1)
            row.generator.bit_generator.state = before
    return _draws(
        [row.sampling if row in wanted else IDLE for row in places],
        uniform,
        edits,
        drafted=drafted,
        wants_logprobs=wants_logprobs,
    )


def _draws(
    ways: Sequence[Sampling],
    uniform: np.ndarray,
    edits: Sequence[Sequence[Edit]],  # of each row, before each of its tokens
    **more: Any,
) -> Draws:
    seen = _stacked([[row[0].seen] for row in edits])  # a session adds the step's own tokens
    added = _stacked([[edit.added for edit in row] for row in edits])
    return Draws(
        np.array([way.temperature for way in ways]).clip(max=LARGEST).astype(np.float32),
        np.array([way.top_k for way in ways], np.int32),
        np.array([way.top_p for way in ways], np.float32),
        np.array([way.min_p for way in ways], np.float32),
        np.array([way.repetition_penalty for way in ways]).clip(TINY, LARGEST).astype(np.float32),
        uniform,
        None if seen is None else seen[:, 0],
        added,
        **more,
    )


def _stacked(given: list[list[np.ndarray | None]]) -> np.ndarray | None:
    """[rows, tokens, vocab] of arrays [vocab], zeros where there is none; None where none is."""
    known = next((array for row in given for array in row if array is not None), None)
    if known is None:
        return None
    nothing = np.zeros_like(known)
    return np.stack([np.stack([nothing if a is None else a for a in row]) for row in given])
