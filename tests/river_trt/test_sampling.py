import numpy as np
import pytest

from river_trt.config import GenerationConfig
from river_trt.errors import EngineError
from river_trt.manifest import SamplingInfo
from river_trt.sampling import (
    Edit,
    Sampling,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalise,
    resolve_sampling,
    row_generator,
    sample,
)

SCORES = np.log(np.array([0.1, 0.4, 0.2, 0.3]))
ALL = np.arange(4)


def test_greedy_takes_the_best_and_draws_nothing():
    generator = row_generator(1, 0)
    before = generator.bit_generator.state
    assert sample(SCORES.astype(np.float32), Sampling(), generator) == 1
    assert generator.bit_generator.state == before


def test_sampling_follows_the_probabilities():
    generator = row_generator(0, 0)
    config = Sampling(temperature=1.0)
    logits = SCORES.astype(np.float32)
    counts = np.bincount([sample(logits, config, generator) for _ in range(4000)], minlength=4)
    np.testing.assert_allclose(counts / 4000, np.exp(SCORES), atol=0.03)


def test_one_number_is_drawn_whatever_the_filters():
    for config in (
        Sampling(temperature=1.0),
        Sampling(temperature=2.0, top_k=2, top_p=0.5, min_p=0.1),
    ):
        generator, other = row_generator(5, 2), row_generator(7, 0)
        sample(SCORES.astype(np.float32), config, generator)
        other.random()
        assert generator.random() == other.random()


def test_tiny_temperature_does_not_overflow():
    logits = np.array([1e30, -1e30, 3.0], np.float32)
    for temperature in (1e-30, 1e-300):
        config = Sampling(temperature=temperature)
        assert sample(logits, config, row_generator(0, 0)) == 0


def test_top_k_keeps_ties_with_the_last():
    assert keep_top_k(np.array([1.0, 3.0, 2.0, 2.0]), 2).tolist() == [1, 2, 3]
    assert keep_top_k(SCORES, 0).tolist() == [0, 1, 2, 3]
    assert keep_top_k(SCORES, 9).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("p", "kept"),
    [(1e-9, [1]), (0.39, [1]), (0.41, [1, 3]), (0.69, [1, 3]), (0.71, [1, 2, 3]), (1.0, ALL)],
)
def test_top_p_keeps_the_smallest_set_that_reaches_p(p, kept):
    assert keep_top_p(SCORES, ALL, p).tolist() == list(kept)


def test_top_p_just_below_one_keeps_all_of_a_flat_distribution():
    flat = np.zeros(7)
    assert len(keep_top_p(flat, np.arange(7), np.nextafter(1.0, 0.0))) == 7


def test_top_p_counts_ties_and_keeps_no_more_than_needed():
    assert keep_top_p(np.zeros(4), ALL, 0.5).tolist() == [0, 1]
    scores = np.log(np.array([0.1, 0.2, 0.2, 0.5]))
    assert keep_top_p(scores, ALL, 0.6).tolist() == [1, 3]


def test_top_p_works_on_what_top_k_left():
    # Of the two left, 0.4 and 0.3, the best has 4/7 of the mass.
    kept = keep_top_k(SCORES, 2)
    assert keep_top_p(SCORES, kept, 0.55).tolist() == [1]
    assert keep_top_p(SCORES, kept, 0.6).tolist() == [1, 3]


def test_min_p_is_relative_to_the_best():
    assert keep_min_p(SCORES, ALL, 0.6).tolist() == [1, 3]
    assert keep_min_p(SCORES, ALL, 0.99).tolist() == [1]


def test_penalty_moves_both_signs_down_and_leaves_its_input():
    logits = np.array([2.0, -2.0, 2.0], np.float32)
    out = penalise(logits, np.array([True, True, False]), 2.0)
    assert out.tolist() == [1.0, -4.0, 2.0]
    assert logits.tolist() == [2.0, -2.0, 2.0]


def test_filters_equal_the_definition_of_transformers():
    """The definition on probabilities, in the order penalty, temperature, k, p, min_p."""
    rng = np.random.default_rng(3)
    logits = rng.standard_normal(50).astype(np.float32) * 4
    scores = logits.astype(np.float64) / 0.8
    order = np.argsort(-scores)[:20]
    probabilities = np.exp(scores[order]) / np.exp(scores[order]).sum()
    order = order[: int((np.cumsum(probabilities) < 0.9).sum()) + 1]
    order = order[scores[order] >= scores.max() + np.log(0.05)]
    config = Sampling(temperature=0.8, top_k=20, top_p=0.9, min_p=0.05)
    generator = row_generator(0, 0)
    drawn = {sample(logits, config, generator) for _ in range(3000)}
    assert drawn <= set(order.tolist())
    likely = order[np.exp(scores[order] - scores.max()) > 0.1]
    assert set(likely.tolist()) <= drawn


@pytest.mark.parametrize("penalty", [5e-324, 1e-300, 1e-30, 1e30, 1e300])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_penalty_of_any_size_leaves_numbers(penalty, temperature):
    logits = np.array([2.0, 1.0, 0.0, -1.0], np.float32)
    config = Sampling(repetition_penalty=penalty, temperature=temperature)
    everything, first = Edit(np.ones(4, np.bool_)), Edit(np.array([True, False, False, False]))
    sample(logits, config, row_generator(0, 0), everything)
    token = sample(logits, config, row_generator(0, 0), first)
    assert (token == 0) == (penalty < 1)
    logits[0] = np.inf
    with pytest.raises(EngineError, match="inf as a logit"):
        sample(logits, config, row_generator(0, 0), everything)


def test_a_caller_wins_over_the_publisher_and_both_over_what_is_off():
    publisher = SamplingInfo(temperature=0.6, top_p=0.9, repetition_penalty=1.1)
    assert resolve_sampling(GenerationConfig(), SamplingInfo()) == Sampling()
    assert resolve_sampling(GenerationConfig(), publisher) == Sampling(0.6, 0, 0.9, 0.0, 1.1)
    greedy = resolve_sampling(GenerationConfig(temperature=0), publisher)
    assert greedy.is_greedy and greedy.repetition_penalty == 1.1  # as transformers has it
    mine = GenerationConfig(temperature=1.5, top_p=1, top_k=3, repetition_penalty=1)
    assert resolve_sampling(mine, publisher) == Sampling(1.5, 3, 1, 0.0, 1)
