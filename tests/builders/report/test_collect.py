import numpy as np
import pytest

from builders.evaluation.policies import (
    fixed_exit,
    gate_scores,
    mean_depth,
    paper_taus,
    tau_shifts,
)
from builders.evaluation.subject import EngineSubject
from builders.evaluation.text import TextOptions, compared_policies, evaluate_policies
from builders.report.collect import collect, layer_scores
from builders.report.page import render
from river_trt.spec import ExitPolicy
from tests.builders.tiny_engines import build_pair, policy

LAYERS = 4
SCORES = np.random.default_rng(0).uniform(0, 1, (LAYERS - 1, 400)).astype(np.float32)
NOBODY = np.zeros(LAYERS, np.bool_)


def quiet(stage: str, done: int, total: int) -> None:
    pass


def test_mean_depth_counts_exits_and_pins():
    scores = np.array([[0.9, 0.1, 0.1], [0.9, 0.9, 0.1], [0.9, 0.9, 0.1]])
    tau = np.full(LAYERS, 0.5)
    assert mean_depth(scores, tau, NOBODY) == pytest.approx((1 + 2 + 4) / 3)
    pinned = np.array([False, False, False, True])
    assert mean_depth(scores, tau, pinned) == pytest.approx((2 + 3 + 4) / 3)


def test_paper_taus_reach_the_depths():
    found = paper_taus(SCORES, [1.5, 2.0, 3.0], LAYERS)
    depths = [mean_depth(SCORES, np.full(LAYERS, tau), NOBODY) for tau in found]
    assert depths == pytest.approx([1.5, 2.0, 3.0], abs=0.02)
    assert paper_taus(SCORES, [0.5, 9.0], LAYERS) == []  # out of reach


def test_tau_is_moved_with_its_pins():
    own = policy(LAYERS, (0.3, np.inf, 0.6, 0.0), (4,))
    (shift,) = tau_shifts(own, SCORES, [2.5])
    assert mean_depth(SCORES, own.tau + shift, own.pinned) == pytest.approx(2.5, abs=0.02)
    assert tau_shifts(ExitPolicy.full_depth(LAYERS), SCORES, [2.0]) == []


def test_fixed_exit():
    assert fixed_exit(LAYERS, 2).tau.tolist() == [np.inf, -np.inf, np.inf, np.inf]


def test_bands():
    scores = layer_scores(np.arange(11.0)[None], "similarity")
    assert (scores.low, scores.median, scores.high) == ((1.0,), (5.0,), (9.0,))


@pytest.fixture(scope="module")
def subject(tmp_path_factory) -> EngineSubject:
    pair = build_pair(tmp_path_factory.mktemp("pair"), with_tokenizer=True)
    return EngineSubject(pair.engine)


def test_scores_say_where_the_engine_exits(subject):
    """The gate compares these scores with tau: what they say of layer 1 is what the engine does."""
    ids = np.arange(30)
    directions = np.random.default_rng(1).standard_normal((LAYERS, 64)).astype(np.float32)
    for chosen in (None, directions):
        scores = gate_scores(subject, [ids], chosen)
        assert scores.shape == (LAYERS - 1, 30)
        tau = float(np.median(scores[0]))
        _, exit_layer = subject.step(0, 0, ids, policy(LAYERS, (tau, 9, 9, 9), (), chosen))
        np.testing.assert_array_equal(exit_layer == 1, scores[0] > tau)


def test_everything_of_an_engine(subject, tmp_path, monkeypatch):
    monkeypatch.setattr(subject, "named", {"fast": policy(LAYERS, (0.2, 9, 9, 9))})
    (tmp_path / "t.txt").write_text("x")
    options = TextOptions(tmp_path / "t.txt", 2, 40, 4)
    pieces = list(np.random.default_rng(2).integers(0, 100, (2, 40)))
    policies = compared_policies(subject, [0.5], None)
    results = evaluate_policies(subject, pieces, policies, options, quiet)
    data = collect(subject, pieces, results, options, quiet, ("river-trt evaluate",))
    by_series = {series: [p for p in data.points if p.series == series] for series in
                 ("full depth", "all river", "fixed", "paper", "calibrated")}  # fmt: skip
    assert all(by_series.values())
    (full,), (river,) = by_series["full depth"], by_series["all river"]
    assert (full.speedup, full.backbone_layers, river.backbone_layers) == (1.0, LAYERS, 1)
    assert [p.name for p in data.points if p.named] == ["fast"]
    assert ">fast<" in render(data)
    (shipped,) = [p for p in data.points if p.shipped]
    assert shipped.name == "River" and shipped.speedup is not None
    assert "".join(data.sample.tokens).split() == [f"w{n}" for n in pieces[0]]
    assert len(data.similarity.median) == LAYERS - 1
    assert "river-trt evaluate" in render(data)
