"""Drafting and verifying the rows of a group, one step at a time.

slots        past_length ..                       a round of one row, three tokens drafted
draft        t                -> d1
draft           d1            -> d2               each step writes its K and V, of the river
draft              d2         -> d3
verify       t  d1 d2 d3      -> v1 v2 v3 v4      the same slots, the backbone's K and V
             d1 = v1, d2 = v2, d3 not v3: the text goes on with v1 v2 v3, past_length + 3
"""

import time
from dataclasses import dataclass

import numpy as np

from river_trt.backends.base import Session, Step
from river_trt.cache_rows import Group
from river_trt.errors import EngineError
from river_trt.faults import row_failure
from river_trt.lossless.answers import Answers, ask_draft, ask_verification
from river_trt.lossless.draft import Draft
from river_trt.lossless.length import shared_length
from river_trt.lossless.spans import Place, spans
from river_trt.row import Row
from river_trt.sampling import LARGEST

Given = dict[Row, list[str | EngineError]]  # the text of each new token, or what ended the row


@dataclass(slots=True)
class LosslessCounts:
    """Of all rows since the decoder was made; seconds are sums of wall time."""

    lossless_rounds: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    draft_seconds: float = 0.0
    verify_seconds: float = 0.0


class LosslessDecoder:
    """least_tokens: of a row in any step; 2 where a single row may sum in another order."""

    def __init__(self, session: Session, least_tokens: int) -> None:
        self._session = session
        self._least_tokens = least_tokens
        self.counts = LosslessCounts()

    def step(self, group: Group) -> Given:
        """One step: a draft step of some rows, or the verification of those that are due.

        Rows of a group verify together as far as they can, because then they share one read of
        the backbone. A row whose draft is complete waits for one step of the others, not more:
        then rows are verified with what they have. A sampled row with a seed is never cut short,
        or its text would depend on the others.
        """
        rows = group.rows
        given: Given = {row: [] for row in rows}
        self._begin(rows)
        complete = [row for row in rows if _draft_of(row).complete]
        if len(complete) == len(rows):
            self._verify(group, rows, given)
        elif any(_draft_of(row).waited for row in complete):
            due = [row for row in rows if row in complete or _draft_of(row).adapts]
            self._verify(group, due, given)
        else:
            for row in complete:
                _draft_of(row).waited = True
            self._draft(group, [row for row in rows if row not in complete], given)
        return given

    def _begin(self, rows: list[Row]) -> None:
        """New rounds where there are none."""
        sharing = [row for row in rows if _draft_of(row).adapts]
        shared = None
        if len(rows) > 1 and any(_draft_of(row).wanted is None for row in sharing):
            shared = shared_length([_draft_of(row).length for row in sharing], len(rows))
        for row in rows:
            draft = _draft_of(row)
            if draft.wanted is None:
                draft.read(row.prompt, row.token_ids)
                draft.begin(_room(row), shared if draft.adapts else None)

    def _draft(self, group: Group, rows: list[Row], given: Given) -> None:
        """One more token for each of the rows."""
        started = time.perf_counter()
        wanted = set(rows)
        places = [
            Place(row.filled, self._least_tokens if row in wanted else 0) for row in group.places
        ]
        for span in spans(places, rows[0].cache_length):
            covered = group.places[span.first : span.end]
            ids = np.zeros((len(covered), span.tokens), np.int64)
            ids[:, 0] = [(_draft_of(row).token_ids or row.token_ids)[-1] for row in covered]
            step = Step(
                ids,
                group.first + span.first,
                np.array([place.start for place in places[span.first : span.end]], np.int32),
                np.zeros(1, np.int64),
                _draft_of(rows[0]).policy,  # the group's
            )
            answers = ask_draft(self._session, step, covered, wanted)
            for place, row in enumerate(covered):
                if row in wanted:
                    given[row] += _extend(row, answers, place)
        seconds = time.perf_counter() - started
        self.counts.draft_seconds += seconds
        for row in rows:
            _draft_of(row).draft_seconds += seconds

    def _verify(self, group: Group, rows: list[Row], given: Given) -> None:
        """End the round of each of the rows."""
        started = time.perf_counter()
        wanted = set(rows)
        places = [
            Place(row.past_length, self._tokens(row)) if row in wanted else Place(row.filled, 0)
            for row in group.places
        ]
        for span in spans(places, rows[0].cache_length):
            covered = group.places[span.first : span.end]
            ids = np.zeros((len(covered), span.tokens), np.int64)
            for index, row in enumerate(covered):
                if row in wanted:
                    known = [row.token_ids[-1], *_draft_of(row).token_ids]
                    ids[index, : len(known)] = known
            step = Step(
                ids,
                group.first + span.first,
                np.array([place.start for place in places[span.first : span.end]], np.int32),
                np.arange(span.tokens),
                rows[0].policy,  # full depth
            )
            answers = ask_verification(self._session, step, covered, wanted)
            for place, row in enumerate(covered):
                if row in wanted:
                    try:
                        self._accept(row, answers, place, given[row])
                    except BaseException as error:  # the row's own: the others go on
                        given[row].append(row_failure(error))
        seconds = time.perf_counter() - started
        self.counts.verify_seconds += seconds
        for row in rows:
            _draft_of(row).verify_seconds += seconds

    def _tokens(self, row: Row) -> int:
        """Of the row's verification."""
        tokens = max(1 + len(_draft_of(row).token_ids), self._least_tokens)
        return min(tokens, row.cache_length - row.past_length)

    def _accept(
        self,
        row: Row,
        answers: Answers,  # after the last token and each drafted one
        place: int,
        given: list[str | EngineError],
    ) -> None:
        draft, exits = _draft_of(row), answers.exit_layer[place]
        accepted, rejected = 0, False
        for index in range(1 + len(draft.token_ids)):
            token = answers.verified(row, place, index)
            row.past_length += 1  # the slot of the token that these logits come after
            logprobs = answers.logprobs(row, place, index, token)
            given.append(row.push(token, int(exits[index]), logprobs=logprobs))
            if index == len(draft.token_ids):
                break
            rejected = token != draft.token_ids[index]
            accepted += not rejected
            if rejected or row.finish_reason is not None:
                break
        self.counts.lossless_rounds += 1
        self.counts.drafted_tokens += len(draft.token_ids)
        self.counts.accepted_tokens += accepted
        draft.end(accepted, rejected)


def _draft_of(row: Row) -> Draft:
    assert row.draft is not None
    return row.draft


def _room(row: Row) -> int:
    """Tokens that the row may draft: the verification gives one more, which needs no slot."""
    slots = row.cache_length - row.past_length - 1
    return min(slots, row.config.max_new_tokens - len(row.token_ids) - 1)


def _extend(row: Row, answers: Answers, place: int) -> list[str | EngineError]:
    """Draft a token; an error is the row's own."""
    draft = _draft_of(row)
    try:
        edit = row.edits.after(draft.token_ids)
        token, origin = answers.draft(row, place, edit)
    except EngineError as error:
        return [error]
    gap = None
    if draft.gap_acceptance is not None:
        gap = min(answers.lead(row, place, edit), LARGEST)  # a mask may leave one token alone
    draft.add(token, origin, gap)
    return []
