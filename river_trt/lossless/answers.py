"""What a step of lossless decoding says of each row: from its logits, or chosen by the session."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from river_trt.backends.base import ChoosesTokens, Draws, Session, Step
from river_trt.draws import drafting_draws, verifying_draws
from river_trt.logprobs import chosen_logprobs
from river_trt.lossless.acceptance import verify_token
from river_trt.results import TokenLogprobs
from river_trt.row import Row
from river_trt.sampling import Distribution, Edit, check_best, distribution, edited, lead


class Answers(Protocol):
    """Of one step. place: of the row in it."""

    exit_layer: np.ndarray  # [rows, seq] int32

    def draft(self, row: Row, place: int, edit: Edit) -> tuple[int, Distribution | None]:
        """A token of a draft step, and what it was drawn from, unless the session keeps that.

        EngineError for logits that are no numbers.
        """
        ...

    def lead(self, row: Row, place: int, edit: Edit) -> float:
        """How far the best logit of a draft step lies above the next one."""
        ...

    def verified(self, row: Row, place: int, index: int) -> int:
        """The token that stands where `index` was drafted; behind the draft, one more.

        Asked for in order, up to the first that is not the drafted one. EngineError as `draft`.
        """
        ...

    def logprobs(self, row: Row, place: int, index: int, token: int) -> TokenLogprobs | None:
        """Of the token that `verified` has given; None where the row wants none."""
        ...


def ask_draft(session: Session, step: Step, places: Sequence[Row], wanted: set[Row]) -> Answers:
    """Run a draft step over the rows at `places`; the answers of those wanted count."""
    if isinstance(session, ChoosesTokens):
        return _Chosen(session, step, drafting_draws(places, wanted))
    return _Logits(session, step)


def ask_verification(
    session: Session, step: Step, places: Sequence[Row], wanted: set[Row]
) -> Answers:
    """Run a verification: each row's last token and its drafted ones, with a logit after each."""
    if isinstance(session, ChoosesTokens):
        draws = verifying_draws(places, wanted, step.num_logits)
        return _Chosen(session, step, draws)
    return _Logits(session, step)


class _Logits:
    def __init__(self, session: Session, step: Step) -> None:
        out = session.step(step)
        self._logits, self.exit_layer = out.logits, out.exit_layer

    def draft(self, row: Row, place: int, edit: Edit) -> tuple[int, Distribution]:
        choice = distribution(self._logits[place, 0], row.sampling, edit)
        return choice.draw(row.generator), choice

    def lead(self, row: Row, place: int, edit: Edit) -> float:
        logits = edited(self._logits[place, 0], row.sampling, edit)
        return lead(logits, int(logits.argmax()))

    def verified(self, row: Row, place: int, index: int) -> int:
        draft = row.draft
        assert draft is not None
        target = distribution(self._logits[place, index], row.sampling, row.edits.after())
        if index == len(draft.token_ids):
            return target.draw(row.generator)
        origin = draft.distributions[index]
        assert origin is not None
        return verify_token(draft.token_ids[index], origin, target, row.generator)

    def logprobs(self, row: Row, place: int, index: int, token: int) -> TokenLogprobs | None:
        return row.logprobs_of(self._logits[place, index], token)


class _Chosen:
    def __init__(self, session: ChoosesTokens, step: Step, draws: Draws) -> None:
        self._out = session.choose(step, draws)
        self.exit_layer = self._out.exit_layer

    def draft(self, row: Row, place: int, edit: Edit) -> tuple[int, None]:
        check_best(self._out.best[place, 0])
        return int(self._out.tokens[place, 0]), None

    def lead(self, row: Row, place: int, edit: Edit) -> float:
        return float(self._out.leads[place, 0])

    def verified(self, row: Row, place: int, index: int) -> int:
        draft = row.draft
        assert draft is not None
        check_best(self._out.best[place, index])
        token = int(self._out.tokens[place, index])
        if not row.sampling.is_greedy:  # the numbers that the session took for it
            is_drawn = index == len(draft.token_ids) or token != draft.token_ids[index]
            row.generator.random(2 if is_drawn and index < len(draft.token_ids) else 1)
        return token

    def logprobs(self, row: Row, place: int, index: int, token: int) -> TokenLogprobs | None:
        count = row.config.logprobs
        return None if count is None else chosen_logprobs(self._out, place, index, count)
