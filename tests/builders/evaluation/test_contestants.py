"""Scores beside a benchmark's speeds: against the first engine, whatever backbone others have."""

import numpy as np
import pytest

from builders.evaluation.contestants import SKIP, score_contestants
from river_trt.benchmark import ALL_RIVER, FULL_DEPTH, Arm, EngineArm
from river_trt.errors import RiverError
from tests.builders.tiny_engines import build_pair


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    directory = tmp_path_factory.mktemp("contestants")
    return [
        build_pair(directory / str(bits), with_tokenizer=True, backbone_bits=bits).engine
        for bits in (32, 8)
    ]


def silent(stage: str, done: int, total: int) -> None:
    pass


def test_baseline_scores_nothing_and_a_coarser_backbone_a_little(engines, tmp_path):
    words = np.random.default_rng(0).integers(0, 100, 400)
    text = tmp_path / "text.txt"
    text.write_text(" ".join(f"w{word}" for word in words))
    contestants = [
        EngineArm(engine, arm, label)
        for engine, label in zip(engines, ("exact", "int8"), strict=True)
        for arm in (FULL_DEPTH, ALL_RIVER)
    ]
    found = score_contestants(contestants, text, 3, 64, silent)
    assert list(found) == [c.name for c in contestants]
    exact, exact_river, coarse, coarse_river = found.values()
    assert exact.kl == pytest.approx(0.0, abs=1e-6) and exact.agreement == 1.0
    assert 1e-7 < coarse.kl < 0.1 * exact_river.kl
    assert coarse_river.kl == pytest.approx(exact_river.kl, rel=0.2)

    # One piece by hand: the river's KL from the first engine's full depth.
    ids = np.array([words[:64]])
    (one,) = score_contestants(contestants[1:2], text, 1, 64, silent).values()
    policies = [np.inf, -np.inf]
    logits = [
        engines[0].forward(ids, engines[0].policy.uniform(4, tau))[0][0, SKIP:] for tau in policies
    ]
    p, q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in map(np.float64, logits))
    assert one.kl == pytest.approx((np.exp(p) * (p - q)).sum(-1).mean(), rel=1e-4)


def test_a_named_policy_scores_for_itself(engines, tmp_path, monkeypatch):
    engine = engines[0]
    monkeypatch.setitem(engine.policies, "deep", engine.policy.uniform(4, -np.inf))
    text = tmp_path / "text.txt"
    text.write_text(" ".join(f"w{word}" for word in range(100)))
    arms = [ALL_RIVER, Arm("deep", policy="deep"), Arm("engine's")]
    contestants = [EngineArm(engine, arm) for arm in arms]
    river, deep, default = score_contestants(contestants, text, 1, 64, silent).values()
    assert deep == river and default.kl < river.kl


def test_no_pieces_are_refused(engines, tmp_path):
    with pytest.raises(RiverError, match="pieces must be at least 1, got 0"):
        score_contestants([EngineArm(engines[0], FULL_DEPTH)], tmp_path / "t", 0, 64, silent)
