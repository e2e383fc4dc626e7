"""Candidates of made-up hidden states: what they promise is what their policies do."""

import numpy as np
import pytest

from builders.calibration.candidates import (
    Gate,
    PinnedCost,
    candidates_within,
    make_gates,
    most_sensitive,
    static_mask,
)
from builders.calibration.ladder import margin
from builders.calibration.material import GateInputs, gate_layers
from builders.evaluation.metrics import cosine
from river_trt.spec import backbone_layers

LAYERS, HIDDEN, POSITIONS = 12, 8, 400
SENSITIVITY = np.array([np.inf, 5, 1, 1, 1, 1, 1, 2, 1, 1, 3, 9])


def inputs(seed: int) -> tuple[GateInputs, np.ndarray]:
    rng = np.random.default_rng(seed)
    h = rng.normal(size=(LAYERS, POSITIONS, HIDDEN)).astype(np.float32)
    cost = np.exp(3 * cosine(h[2], np.eye(HIDDEN, dtype=np.float32)[0])) * 0.1
    return GateInputs({2: h[1], 4: h[3]}, {2: h[2], 4: h[4]}), cost


@pytest.fixture(scope="module")
def pins() -> list[PinnedCost]:
    _, cost = inputs(1)
    return [PinnedCost(most_sensitive(SENSITIVITY, count), cost / count) for count in (2, 4)]


@pytest.fixture(scope="module")
def gates() -> list[Gate]:
    (fit, cost), (choose, _) = inputs(0), inputs(1)
    return make_gates(fit, choose, cost, np.arange(POSITIONS) % 2)


def depth_of(policy, choose: GateInputs) -> float:
    """Mean backbone layers of a policy that decides after layers 2 or 4."""
    exit_layer = np.full(POSITIONS, LAYERS)
    for layer in (4, 2):
        reference = (
            choose.before[layer] if policy.directions is None else policy.directions[layer - 1]
        )
        passed = cosine(choose.after[layer], reference) > policy.tau[layer - 1]
        exit_layer = np.where(passed, layer, exit_layer)
    return float(backbone_layers(exit_layer, policy.pinned).mean())


@pytest.mark.parametrize("budget", [6.5, 7.5, 10.0])
def test_candidates_spend_the_budget(pins, gates, budget):
    choose, _ = inputs(1)
    found = candidates_within(budget, pins, gates)
    assert {c.gate_layer for c in found} == {2, 4}
    assert {c.policy.gate for c in found} == {"similarity", "direction"}
    for candidate in found:
        assert depth_of(candidate.policy, choose) == pytest.approx(budget, abs=0.05)
        assert depth_of(candidate.final, choose) == pytest.approx(budget, abs=0.7)
        assert np.isfinite(candidate.policy.tau).sum() == 1


def test_the_layer_that_knows_the_cost_comes_first(pins, gates):
    found = candidates_within(7.0, pins, gates)
    assert (found[0].policy.gate, found[0].gate_layer) == ("direction", 2)
    similarity = min(c.predicted_kl for c in found if c.policy.gate == "similarity")
    assert found[0].predicted_kl < 0.8 * similarity


def test_nothing_promised_where_the_budget_leaves_no_choice(pins, gates):
    assert candidates_within(12.0, pins, gates) == candidates_within(2.0, pins, gates) == []


def test_fit_scores_are_of_directions_that_have_not_seen_the_token():
    """With pure noise for costs a direction that has seen the tokens would seem to know them."""
    (fit, _), (choose, _) = inputs(0), inputs(1)
    noise = np.random.default_rng(5).random(POSITIONS)
    for gate in make_gates(fit, choose, noise, np.arange(POSITIONS) % 2):
        if gate.direction is not None:
            seen = cosine(fit.after[gate.layer], gate.direction)
            assert np.corrcoef(seen, noise)[0, 1] < -0.1
            assert np.corrcoef(gate.fit_scores, noise)[0, 1] > -0.1


def test_most_sensitive_layers_are_pinned():
    assert (np.flatnonzero(most_sensitive(SENSITIVITY, 4)) + 1).tolist() == [1, 2, 11, 12]
    assert (np.flatnonzero(most_sensitive(SENSITIVITY, 1)) + 1).tolist() == [1]


def test_static_mask_runs_its_pins_only():
    candidate = static_mask(SENSITIVITY, 4)
    policy = candidate.policy
    assert policy.tau[0] == -np.inf and np.isposinf(policy.tau[1:]).all()
    assert backbone_layers(np.array([1]), policy.pinned).tolist() == [4]
    assert candidate.describe() == "3 pinned, no gate"


def test_gate_layers_of_any_model_have_a_layer_behind_them():
    assert gate_layers(30) == [1, 2, 4, 6, 8]
    for num_layers in (2, 3, 4, 80):
        layers = gate_layers(num_layers)
        assert layers == sorted(set(layers)) and layers[0] >= 1 and layers[-1] < num_layers


def test_a_margin_keeps_new_pieces_within_the_budget_nineteen_times_of_twenty():
    random = np.random.default_rng(0)
    kept = []
    for _ in range(400):
        # Pieces differ, and so do the positions of each.
        dear = random.gamma(20, 1 / 20, (2, 8, 1))
        seen, new = dear * random.gamma(0.3, 1 / 0.3, (2, 8, 60))
        divisor = margin(list(seen), ["a"] * 4 + ["b"] * 4)
        assert divisor > 1
        kept.append(new.mean() <= seen.mean() * divisor)
    assert 0.93 < np.mean(kept) < 1
    alike = [np.array([0.0, 2.0] * 50)] * 4  # by chance
    assert margin(alike, ["a"] * 4) == pytest.approx(1.24, abs=0.02)
