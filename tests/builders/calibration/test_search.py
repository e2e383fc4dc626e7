"""The search on a tiny engine: budgets are kept, and the choice is the best of what was tried."""

from pathlib import Path

import numpy as np
import pytest

from builders.calibration.budget import Budget
from builders.calibration.command import CHOSEN, calibrate
from builders.calibration.material import Split, mean_kl, sensitivity
from builders.calibration.paper import PaperSearch
from builders.calibration.search import Search, pin_counts
from builders.evaluation.command import TextRun
from builders.evaluation.policies import pinned_only
from builders.evaluation.scores import score
from builders.evaluation.subject import EngineSubject
from river_trt.errors import RiverError
from tests.builders.tiny_engines import Pair, build_pair

LAYERS, SKIP, TOKENS = 6, 4, 40
PIECES = list(np.random.default_rng(0).integers(0, 100, (24, TOKENS)))


def quiet(stage: str, done: int, total: int) -> None:
    pass


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Pair:
    directory = tmp_path_factory.mktemp("pair")
    return build_pair(directory, with_tokenizer=True, num_hidden_layers=LAYERS)


@pytest.fixture(scope="module")
def subject(pair) -> EngineSubject:
    return EngineSubject(pair.engine)


@pytest.fixture(scope="module")
def split() -> Split:
    return Split.of(PIECES, "text")


@pytest.fixture(scope="module")
def search(subject, split) -> Search:
    return Search(subject, split, [1, 2, 3], SKIP, quiet)


def test_parts_do_not_overlap(split):
    parts = [*split.fit, *split.choose, *split.report]
    assert (len(split.fit), len(split.choose), len(split.report)) == (9, 3, 12)
    assert len({piece.tobytes() for piece in parts}) == len(PIECES)
    with pytest.raises(RiverError, match="text gives 7 pieces of text; 8 are needed"):
        Split.of(PIECES[:7], "text")


def test_sensitivity_is_the_cost_of_one_layer_on_the_river(subject, search, split):
    one = np.ones(LAYERS, np.bool_)
    one[3] = False
    (expected,) = score(subject, split.fit[:4], [pinned_only(one)], SKIP, quiet)
    found = sensitivity(subject, split.fit[:4], SKIP, quiet)
    assert found[3] == pytest.approx(mean_kl(expected)) and found[0] == np.inf
    assert (found[1:] > 0).all()
    np.testing.assert_array_equal(search.sensitivity, found)


@pytest.mark.parametrize("layers", [2.5, 4.0, 5.0])
def test_budget_of_layers_is_kept_and_the_least_kl_wins(search, layers, monkeypatch):
    tried = []
    measure = search._measure
    monkeypatch.setattr(search, "_measure", lambda c: tried.append(measure(c)) or tried[-1])
    found = search.at(layers)
    assert found.backbone_layers <= layers + 0.1
    assert found.kl == min(candidate.kl for candidate in tried[0])
    assert len(tried[0]) == 4, "the static mask and three gated ones"
    gated = [candidate for candidate in tried[0] if "gate at layer" in candidate.description]
    assert all(c.backbone_layers == pytest.approx(layers, abs=0.1) for c in gated)


def test_all_layers_are_the_backbone(search):
    found = search.at(LAYERS)
    assert found.kl == pytest.approx(0, abs=1e-6) and found.backbone_layers == LAYERS


def test_paper_policy_is_one_tau_without_pins(subject, split):
    paper = PaperSearch(subject, split.choose, SKIP, quiet)
    found = paper.at(3.0)
    policy = found.policy
    assert policy.gate == "similarity" and not policy.pinned.any()
    assert len(set(policy.tau.tolist())) == 1 and np.isfinite(policy.tau).all()
    assert found.backbone_layers == pytest.approx(3.0, abs=0.7)
    assert paper.at(1.0).backbone_layers == 1 and paper.at(LAYERS).backbone_layers == LAYERS


def test_pin_counts_lie_within_the_budget():
    assert pin_counts(Budget("target-layers", 14), 30) == [2, 4, 6, 8, 10, 13]
    assert pin_counts(Budget("target-layers", 1), 30) == [1]
    assert max(pin_counts(Budget("max-kl", 0.1), 30)) == 18


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    words = np.random.default_rng(0).integers(0, 100, 24 * TOKENS)
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(" ".join(f"w{word}" for word in words))
    return path


@pytest.mark.parametrize("kind", ["calibrated", "paper"])
def test_calibration_reports_on_held_out_text(pair, text, kind):
    run = TextRun(pair.directory, None, text, pieces=24, piece_tokens=TOKENS, skip=SKIP)
    found = calibrate(run, kind, Budget("target-layers", 3), quiet)
    names = [result.name for result in found.results]
    rival = ["the paper's gate"] if kind == "calibrated" else []
    assert names == ["backbone", "all river", CHOSEN, *rival, "fixed exit", "static mask"]
    own = found.results[2]
    assert own.backbone_layers.value == pytest.approx(3, abs=0.7)
    assert own.pieces == 12 and own.positions == 12 * (TOKENS - SKIP - 1)
    assert f"{kind}, --target-layers 3 on text.txt: KL {own.kl.value:.4f}" in found.summary
    assert found.budget_met


def test_quality_budget_is_met_where_it_was_searched(pair, text):
    run = TextRun(pair.directory, None, text, pieces=24, piece_tokens=TOKENS, skip=SKIP)
    all_river = calibrate(run, "calibrated", Budget("max-kl", 9), quiet).results[1].kl.value
    budget = Budget("max-kl", all_river / 2)
    found = calibrate(run, "calibrated", budget, quiet)
    own = found.results[2]
    assert 1 < own.backbone_layers.value < LAYERS
    assert own.kl.value < all_river * 0.75
    assert found.budget_met == (own.kl.value <= budget.value)
