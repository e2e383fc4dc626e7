import numpy as np
import pytest

from builders.evaluation.intervals import Estimate, bootstrap_mean
from builders.evaluation.results import exponential


def test_mean_is_over_positions_not_over_pieces():
    assert bootstrap_mean(np.array([10.0, 1.0]), np.array([10, 1])).value == 1.0
    assert bootstrap_mean(np.array([30.0, 1.0]), np.array([10, 1])).value == pytest.approx(31 / 11)


def test_one_piece_has_no_interval():
    assert bootstrap_mean(np.array([6.0]), np.array([3])) == Estimate(2.0, None, None)


def test_interval_covers_what_it_should():
    """Of 200 samples whose true mean is 0, about 95 % of the intervals hold it."""
    random = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        estimate = bootstrap_mean(random.standard_normal(40), np.ones(40))
        assert estimate.low is not None and estimate.high is not None
        held += estimate.low <= 0 <= estimate.high
    assert 180 <= held <= 198


def test_whole_pieces_are_drawn():
    """Positions of a piece that repeat one value carry no more than the piece does."""
    values = np.random.default_rng(1).standard_normal(12)
    few = bootstrap_mean(values, np.ones(12))
    many = bootstrap_mean(values * 100, np.full(12, 100))
    assert (few.low, few.high) == pytest.approx((many.low, many.high))


def test_the_seed_decides():
    sums, counts = np.arange(9.0), np.ones(9)
    assert bootstrap_mean(sums, counts, 1) == bootstrap_mean(sums, counts, 1)
    assert bootstrap_mean(sums, counts, 1) != bootstrap_mean(sums, counts, 2)


def test_perplexity_of_nats():
    assert exponential(Estimate(0.0, -1.0, 1.0)) == Estimate(
        1.0, pytest.approx(np.exp(-1)), pytest.approx(np.e)
    )
    assert exponential(Estimate(0.0)) == Estimate(1.0)
