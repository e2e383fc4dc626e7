"""The one stepping code: prefill each row alone, chunk by chunk, then decode rows together.

`Engine.generate` and `Engine.stream` run it to the end of a batch, the scheduler in serving/ lets
rows join and leave between its steps.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from river_trt.backends.base import ChoosesTokens, Session, Step
from river_trt.cache_rows import CacheRows, Group
from river_trt.draws import draws_of
from river_trt.errors import EngineError
from river_trt.faults import row_failure
from river_trt.logprobs import chosen_logprobs, token_logprobs
from river_trt.lossless.decoding import Given, LosslessDecoder
from river_trt.prefixes import Prefixes
from river_trt.results import TokenEvent
from river_trt.row import Row
from river_trt.sampling import check_best
from river_trt.spec import ExitPolicy, GateScope

SCORED_TOKENS = 64  # of a prompt in one step: the logits of each come back


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What a step gave one row: a token, or the error that ended it."""

    row: Row
    event: TokenEvent | EngineError


class Decoder:
    """Runs rows over the cache of a session.

    prefill_chunk: prompt tokens of a prefill step at most. batch_invariant: what a row gives does
    not depend on the rows beside it, to the last bit; a lone row steps as one of two for it.
    prefixes: keeps rows that are done, for prompts that begin alike.
    """

    def __init__(
        self,
        session: Session,
        prefill_chunk: int,
        *,
        batch_invariant: bool = False,
        prefixes: Prefixes | None = None,
    ) -> None:
        self._session = session
        self._chooser = session if isinstance(session, ChoosesTokens) else None
        self.prefill_chunk = prefill_chunk
        self.rows = CacheRows(session, twins=batch_invariant, prefixes=prefixes)
        self.lossless = LosslessDecoder(session, least_tokens=2 if batch_invariant else 1)

    def run(self, rows: list[Row]) -> Iterator[TokenEvent]:
        """All rows together, to the end of each; no more rows than the session's cache takes."""
        for row in rows:
            self.rows.begin(row)
            while self.rows.prefilling is row:
                yield from map(_event, self.prefill())
        while self.rows.groups:
            for group in list(self.rows.groups):
                yield from map(_event, self.decode(group))

    def next_chunk(self, row: Row) -> int:
        """Tokens of the row's next prefill step."""
        left = len(row.prompt) - row.past_length
        if row.is_scoring:
            return min(left - 1, self.prefill_chunk, SCORED_TOKENS)
        # "sequence": the prompt decides as a whole, so it runs as a whole.
        return left if row.config.prefill == "sequence" else min(left, self.prefill_chunk)

    def prefill(self) -> list[Outcome]:
        """One step of the row that is being prefilled; its first token, once the prompt is done."""
        row = self.rows.prefilling
        assert row is not None
        started = time.perf_counter()
        if row.is_scoring:
            self._score(row)
            row.prefill_seconds += time.perf_counter() - started
            return []
        step = self._prefill_step(row)
        if not row.prefilled:
            self._session.step(step)
            row.prefill_seconds += time.perf_counter() - started
            return []
        given = self._next_tokens(step, [row])[row]
        if _goes_on(row, given):
            self.rows.join()
        else:
            self.rows.remove(row, keep=not _has_failed(given))
        row.prefill_seconds += time.perf_counter() - started
        return _outcomes(row, given)

    def decode(self, group: Group) -> list[Outcome]:
        """One step of every row of a group; rows that end leave the cache.

        It gives each row a token, but rows in lossless mode none or several.
        """
        started = time.perf_counter()
        lossless = group.places[0].draft is not None
        given = self.lossless.step(group) if lossless else self._decode_step(group)
        # From the end, so that no row moves twice.
        for row, items in reversed(given.items()):
            if not _goes_on(row, items):
                self.rows.remove(row, keep=not _has_failed(items))
        seconds = time.perf_counter() - started
        for row in given:
            row.decode_seconds += seconds
        return [outcome for row, items in given.items() for outcome in _outcomes(row, items)]

    def _score(self, row: Row) -> None:
        """A step of the prompt as the row's policy would decode it, for its log-probabilities.

        The prefill comes behind it, over the same slots where it would write other K and V.
        """
        start, count = row.past_length, row.config.prompt_logprobs
        assert count is not None
        step = self._prompt_step(row, row.policy, GateScope.TOKEN, all_logits=True)
        logits = self._session.step(step).logits[0]
        check_best(logits.max())
        tokens = row.prompt[start + 1 : start + 1 + len(logits)].tolist()
        row.prompt_logprobs += token_logprobs(logits, tokens, count)
        if not row.is_scoring and not np.isposinf(row.policy.tau).all():
            row.past_length = 0

    def _prefill_step(self, row: Row) -> Step:
        policy = row.policy
        if row.config.prefill == "off":
            policy = ExitPolicy.full_depth(len(policy.tau))
        return self._prompt_step(row, policy, GateScope.SEQUENCE)

    def _prompt_step(
        self, row: Row, policy: ExitPolicy, scope: GateScope, *, all_logits: bool = False
    ) -> Step:
        """The prompt's next chunk, with the logits of its last token or of all."""
        start = row.past_length
        ids = row.prompt[None, start : start + self.next_chunk(row)]
        row.past_length += ids.shape[1]
        first = 0 if all_logits else ids.shape[1] - 1
        return Step(
            ids,
            self.rows.prefill_place,
            np.array([start], np.int32),
            np.arange(first, ids.shape[1], dtype=np.int64),
            policy,
            scope,
        )

    def _decode_step(self, group: Group) -> Given:
        row = group.places[0]  # policy and scope are the group's
        step = Step(
            np.array([[row.token_ids[-1]] for row in group.places], np.int64),
            group.first,
            np.array([row.past_length for row in group.places], np.int32),
            np.zeros(1, np.int64),
            row.policy,
            row.scope,
        )
        for row in group.rows:
            row.past_length += 1
        return self._next_tokens(step, group.places)

    def _next_tokens(self, step: Step, places: list[Row]) -> Given:
        """The next token of each row. A lone row may stand twice; its first place counts."""
        rows = list(dict.fromkeys(places))
        if self._chooser is not None:
            chosen = self._chooser.choose(step, draws_of(places))
            given: Given = {}
            for place, row in enumerate(rows):
                count = row.config.logprobs
                known = None if count is None else chosen_logprobs(chosen, place, 0, count)
                token, exits = int(chosen.tokens[place, 0]), int(chosen.exit_layer[place, -1])
                accept = partial(row.accept_choice, token, chosen.best[place, 0], exits, known)
                given[row] = _accept(accept)
            return given
        out = self._session.step(step)
        return {
            row: _accept(partial(row.accept, logits[0], exits[-1]))
            for row, logits, exits in zip(rows, out.logits, out.exit_layer, strict=False)
        }


def _accept(take: Callable[[], str]) -> list[str | EngineError]:
    """The row's new text; an error is the row's own and leaves the others alone."""
    try:
        return [take()]
    except BaseException as error:  # of the sampler, the tokenizer's decoder
        return [row_failure(error)]


def _goes_on(row: Row, given: list[str | EngineError]) -> bool:
    return row.finish_reason is None and not _has_failed(given)


def _has_failed(given: list[str | EngineError]) -> bool:
    return any(isinstance(item, EngineError) for item in given)


def _outcomes(row: Row, given: list[str | EngineError]) -> list[Outcome]:
    """In the order of the tokens."""
    first = len(row.token_ids) - sum(isinstance(item, str) for item in given)
    return [
        Outcome(row, row.event(first + number, item) if isinstance(item, str) else item)
        for number, item in enumerate(given)
    ]


def _event(outcome: Outcome) -> TokenEvent:
    if isinstance(outcome.event, EngineError):
        raise outcome.event
    return outcome.event
