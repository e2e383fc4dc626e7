"""The GPU's session over doubles: which steps share a recording, and what it works on."""

import numpy as np
import pytest
import torch

from river_trt.backends.base import Draws, SessionOptions, Step
from river_trt.backends.torch import session as session_module
from river_trt.backends.torch.graphs import Outputs, Recording
from river_trt.backends.torch.session import (
    CACHE_ROWS,
    EXTRA_INPUTS,
    GATE_SQUARES,
    O_SQUARES,
    QKV_SQUARES,
    ChoosingSession,
)
from river_trt.gpu_memory import WORKSPACES
from river_trt.spec import ExitPolicy, GateScope, ModelShape

LAYERS, VOCAB, ROWS, SLOTS = 2, 11, 6, 32
SQUARES = (O_SQUARES, GATE_SQUARES, QKV_SQUARES)
SHAPE = ModelShape(LAYERS, 8, 2, 1, 4, VOCAB, SLOTS)


class Double:
    """A program whose cache holds the tokens, and a recorder that counts its recordings."""

    def __init__(self) -> None:
        self.recorded: list[tuple[int, ...]] = []
        self.rows: list[int] = []

    def program(self, inputs: Outputs) -> Outputs:
        ids, past, logit_indices = inputs[:3]
        cache, extra = inputs[8], dict(zip(EXTRA_INPUTS, inputs[-len(EXTRA_INPUTS) :], strict=True))
        cache_rows = extra[CACHE_ROWS]
        self.squares = [None if extra[name] is None else extra[name].shape for name in SQUARES]
        self.rows = cache_rows.tolist()
        assert all(extra[name].numel() > 0 for name in WORKSPACES)
        sums = torch.zeros(*ids.shape)
        for place, row in enumerate(cache_rows.tolist()):
            for index in range(ids.shape[1]):
                slot = int(past[place]) + index
                cache[row, 0, slot] = ids[place, index].float()
                sums[place, index] = cache[row, 0, : slot + 1, 0].sum()
        best = (sums[:, logit_indices].long() % VOCAB)[..., None]
        logits = torch.zeros(*best.shape[:2], VOCAB).scatter(-1, best, 5.0)
        return [logits, torch.full_like(ids, LAYERS, dtype=torch.int32)]

    def record(self, step) -> Recording:
        outputs = step()
        self.recorded.append(tuple(self.rows))

        def replay() -> None:
            for kept, new in zip(outputs, step(), strict=True):
                kept.copy_(new)

        return Recording(replay, outputs)


@pytest.fixture
def made():
    double = Double()
    options = SessionOptions(ROWS, SLOTS)
    cpu = torch.device("cpu")
    session = ChoosingSession(
        *(double.program, {}, SHAPE, options, cpu, torch.float32, double.record),
        extra_inputs=EXTRA_INPUTS,
    )
    return session, double


def step_of(ids: list[list[int]], first_row: int, past: list[int], scope=GateScope.TOKEN) -> Step:
    return Step(
        np.array(ids, np.int64),
        first_row,
        np.array(past, np.int32),
        np.array([len(ids[0]) - 1]),
        ExitPolicy.full_depth(LAYERS),
        scope,
    )


def tokens(session: ChoosingSession, step: Step) -> list[int]:
    return session.choose(step, Draws.greedy(step.rows)).tokens[:, 0].tolist()


def test_rows_anywhere_share_the_recording_of_their_bucket(made):
    session, double = made
    assert tokens(session, step_of([[1], [2], [3]], 0, [0, 0, 0])) == [1, 2, 3]
    assert tokens(session, step_of([[4], [5], [6]], 3, [0, 0, 0])) == [4, 5, 6]
    assert tokens(session, step_of([[1], [1], [1]], 2, [1, 1, 1])) == [4, 5, 6]
    assert tokens(session, step_of([[1], [1], [1], [1]], 0, [1, 1, 2, 2])) == [2, 3, 5, 6]
    assert len(double.recorded) == 1, "three rows and four, at rows 0, 2 and 3"


def test_what_fills_up_works_on_a_row_of_its_own(made):
    session, double = made
    before = [cache.clone() for cache in session.caches]
    tokens(session, step_of([[1], [2], [3]], 1, [5, 5, 5]))
    assert double.rows == [1, 2, 3, ROWS]
    changed = [
        row for row in range(ROWS + 1) if not torch.equal(session.caches[0][row], before[0][row])
    ]
    assert changed in ([1, 2, 3], [1, 2, 3, ROWS])
    with pytest.raises(AssertionError):
        tokens(session, step_of([[1]], ROWS, [0]))


def test_where_all_rows_decide_together_nothing_fills_up(made):
    session, double = made
    tokens(session, step_of([[1], [2], [3]], 0, [0, 0, 0], GateScope.BATCH))
    assert double.rows == [0, 1, 2]


def test_spans_are_recorded_and_prefill_is_not(made):
    session, double = made
    for length in (1, 2, 8):
        tokens(session, step_of([list(range(length))], 0, [0]))
    assert len(double.recorded) == 3
    assert tokens(session, step_of([list(range(9))], 0, [0])) == [36 % VOCAB]
    assert len(double.recorded) == 3


def test_sums_of_squares_are_handed_on_for_as_many_tokens_as_the_kernel_takes(made):
    session, double = made
    tokens(session, step_of([[1, 2], [3, 4], [5, 6]], 0, [0, 0, 0]))  # a bucket of four rows
    assert double.squares == [(8, 256), (4, 2), (8, 1)]
    tokens(session, step_of([[1], [2], [3], [4], [5]], 0, [0] * 5, GateScope.BATCH))
    assert double.squares == [(5, 256), (5, 1), (5, 1)]
    tokens(session, step_of([[1, 2, 3], [3, 4, 5], [5, 6, 7]], 0, [0, 0, 0]))
    assert double.squares == [None] * 3


def test_logits_come_back_where_they_are_asked_for(made):
    session, double = made
    out = session.step(step_of([[7], [8], [9]], 0, [0, 0, 0]))
    assert out.logits.shape == (3, 1, VOCAB) and out.exit_layer.tolist() == [[LAYERS]] * 3
    assert out.logits[:, 0].argmax(-1).tolist() == [7, 8, 9]
    assert tokens(session, step_of([[7], [8], [9]], 0, [0, 0, 0])) == [7, 8, 9]
    assert len(double.recorded) == 2, "logits, and tokens"


def test_recordings_are_bounded_and_the_oldest_goes(made, monkeypatch):
    session, double = made
    monkeypatch.setattr(session_module, "MOST_RECORDINGS", 2)
    for length in (1, 2, 3, 2, 1):
        tokens(session, step_of([list(range(length))], 0, [0]))
    assert len(double.recorded) == 4 and len(session._runners) == 2


def test_a_rows_own_draw_is_not_the_fillers(made):
    session, _ = made
    for uniform in (0.0, 0.999):
        draws = Draws(
            *(np.ones(3, np.float32), np.zeros(3, np.int32), np.ones(3, np.float32)),
            *(np.zeros(3, np.float32), np.ones(3, np.float32), np.full(3, uniform)),
        )
        chosen = session.choose(step_of([[1], [2], [3]], 0, [0, 0, 0]), draws)
        assert chosen.tokens.shape == (3, 1)
        assert (chosen.tokens == (0 if uniform == 0.0 else VOCAB - 1)).all()
