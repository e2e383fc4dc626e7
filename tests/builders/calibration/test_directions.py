import numpy as np
import pytest

from builders.calibration.directions import fit_direction
from builders.evaluation.metrics import cosine


@pytest.fixture
def tokens():
    """Hidden states whose first coordinate says how much an exit costs, and their costs."""
    rng = np.random.default_rng(0)
    h = rng.normal(size=(2000, 16)).astype(np.float32)
    cost = np.exp(h[:, 0] / np.linalg.norm(h, axis=1) * 3 + rng.normal(size=2000) * 0.3) * 0.1
    return h, cost


def rank_correlation(a, b):
    ranks = [np.argsort(np.argsort(x)) for x in (a, b)]
    return np.corrcoef(*ranks)[0, 1]


def test_score_is_high_where_an_exit_costs_little(tokens):
    h, cost = tokens
    direction = fit_direction(h[:1500], cost[:1500])
    assert rank_correlation(cosine(h[1500:], direction), cost[1500:]) < -0.8
    assert np.argmax(np.abs(direction)) == 0 and direction[0] < 0


def test_direction_is_a_unit_vector_of_float32(tokens):
    h, cost = tokens
    direction = fit_direction(h, cost)
    assert direction.dtype == np.float32 and direction.shape == (16,)
    assert np.linalg.norm(direction) == pytest.approx(1, abs=1e-6)


def test_scale_of_a_token_does_not_matter(tokens):
    """The gate sees a cosine, so long hidden states must not outweigh short ones in the fit."""
    h, cost = tokens
    scales = np.random.default_rng(1).uniform(0.1, 100, (len(h), 1)).astype(np.float32)
    np.testing.assert_allclose(fit_direction(h * scales, cost), fit_direction(h, cost), atol=1e-4)


def test_equal_costs_and_zero_states_give_finite_numbers():
    h = np.zeros((8, 4), np.float32)
    h[0] = 1
    assert np.isfinite(fit_direction(h, np.full(8, 0.1))).all()
    assert np.isfinite(cosine(h, np.ones(4, np.float32))).all()
