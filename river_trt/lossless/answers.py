"""What a step of lossless decoding says of each row: from its logits, or chosen by the session.

A session chooses greedy tokens alone: of a sampled row the distribution itself is needed, and under
a repetition penalty each token changes what the next one is chosen from.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from river_trt.backends.base import ChoosesTokens, Draws, Session, Step
from river_trt.row import Row
from river_trt.sampling import Distribution, check_best, distribution, lead, penalised


class Answers(Protocol):
    """Of one step. place: of the row in it; index: of its logits."""

    exit_layer: np.ndarray  # [rows, seq] int32

    def choice(self, row: Row, place: int, index: int, seen: np.ndarray | None) -> Distribution:
        """What comes next; seen: [vocab] bool. EngineError for logits that are no numbers."""
        ...

    def lead(self, row: Row, place: int, index: int, seen: np.ndarray | None) -> float:
        """How far the best logit lies above the next one; seen: [vocab] bool."""
        ...


def ask(session: Session, step: Step, rows: Sequence[Row]) -> Answers:
    """Run the step; rows: those whose answers are wanted."""
    plain = all(row.sampling.is_greedy and row.seen is None for row in rows)
    if plain and isinstance(session, ChoosesTokens):
        return _Chosen(session, step)
    return _Logits(session, step)


class _Logits:
    def __init__(self, session: Session, step: Step) -> None:
        out = session.step(step)
        self._logits, self.exit_layer = out.logits, out.exit_layer

    def choice(self, row: Row, place: int, index: int, seen: np.ndarray | None) -> Distribution:
        return distribution(self._logits[place, index], row.sampling, seen)

    def lead(self, row: Row, place: int, index: int, seen: np.ndarray | None) -> float:
        logits = penalised(self._logits[place, index], row.sampling, seen)
        return lead(logits, int(logits.argmax()))


class _Chosen:
    def __init__(self, session: ChoosesTokens, step: Step) -> None:
        self._out = session.choose(step, Draws.greedy(step.rows, wants_leads=True))
        self.exit_layer = self._out.exit_layer

    def choice(self, row: Row, place: int, index: int, seen: np.ndarray | None) -> Distribution:
        check_best(self._out.best[place, index])
        return Distribution(self._out.tokens[place, index : index + 1], np.ones(1))

    def lead(self, row: Row, place: int, index: int, seen: np.ndarray | None) -> float:
        return float(self._out.leads[place, index])
