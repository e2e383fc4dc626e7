from typing import Any

import numpy as np

from river_trt.spec import ExitPolicy
from scripts.research.draft_lead import EDGES, by_lead, draft_leads

VOCAB, LAYERS = 8, 2


class CountingEngine:
    """Says token + 1; its river says token + 2 after an odd token, with a smaller lead."""

    num_layers = LAYERS
    draft_policy = ExitPolicy.uniform(LAYERS, float("-inf"))

    def __init__(self) -> None:
        self.cache: list[tuple[int, bool]] = []

    def forward(
        self, ids: np.ndarray, policy: ExitPolicy, past_length: int = 0, **_: Any
    ) -> tuple[np.ndarray, None]:
        drafting = bool(np.isneginf(policy.tau).all())
        assert not any(drafted for _, drafted in self.cache[:past_length]), "a drafted slot is read"
        self.cache[past_length:] = [(int(token), drafting) for token in ids[0]]
        token = int(ids[0, -1])
        wrong = drafting and token % 2 == 1
        logits = np.zeros((1, 1, VOCAB), np.float32)
        logits[0, 0, (token + 1 + wrong) % VOCAB] = 0.5 if wrong else 3.0
        return logits, None


def test_a_drafted_token_is_compared_with_the_backbones_at_its_place():
    engine: Any = CountingEngine()
    leads, accepted = draft_leads(engine, [1, 2], 4)  # the text is 3 4 5 6
    assert leads.tolist() == [0.5, 3.0, 0.5, 3.0]
    assert accepted.tolist() == [False, True, False, True]
    assert [token for token, _ in engine.cache] == [1, 2, 3, 4, 5, 6]


def test_shares_of_each_interval():
    leads = np.array([0.05, 0.05, 0.5, 9.0], np.float32)
    found = by_lead(leads, np.array([True, False, True, True]))
    assert len(found) == len(EDGES) - 1
    assert found[0] == (0.5, 0.5)
    assert found[3] == (0.25, 1.0)
    assert found[-1] == (0.25, 1.0)
    assert found[1][0] == 0.0 and np.isnan(found[1][1])
