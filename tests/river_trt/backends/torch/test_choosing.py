"""Tokens chosen on the device are those of river_trt.sampling: same rule, same random number."""

import dataclasses

import numpy as np
import pytest
import torch

from river_trt.backends.base import Draws
from river_trt.backends.torch.choosing import Work, choose
from river_trt.backends.torch.session import DRAFTED, DRAWS
from river_trt.config import GenerationConfig
from river_trt.draws import draws_of
from river_trt.sampling import distribution, lead, sample
from tests.river_trt.rows import make_row

VOCAB = 300
CONFIGS = {
    "greedy": {"temperature": 0.0},
    "greedy, penalised": {"temperature": 0.0, "repetition_penalty": 1.7},
    "endless penalty": {"temperature": 0.0, "repetition_penalty": 1e300},
    "greedy, biased": {"temperature": 0.0, "logit_bias": {5: 3.5, 7: -100}},
    "plain": {"temperature": 1.0},
    "biased": {"temperature": 1.0, "logit_bias": {5: 3.5, 7: -100}, "top_k": 7},
    "cold": {"temperature": 1e-3},
    "top_k": {"temperature": 1.3, "top_k": 7},
    "top_k of all": {"temperature": 1.3, "top_k": 10**6},
    "top_p": {"temperature": 1.3, "top_p": 0.6},
    "least top_p": {"temperature": 1.3, "top_p": 1e-6},
    "min_p": {"temperature": 1.3, "min_p": 0.1},
    "all": {
        "temperature": 0.9,
        "top_k": 40,
        "top_p": 0.9,
        "min_p": 0.02,
        "repetition_penalty": 0.8,
    },
}


def on_device(logits: np.ndarray, draws: Draws) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """logits [rows, num_logits, vocab]."""
    fields = {name: torch.tensor(getattr(draws, name)) for name in DRAWS}
    seen = None if draws.seen is None else torch.tensor(draws.seen)
    added = None if draws.added is None else torch.tensor(draws.added)
    chosen = choose(torch.tensor(logits), Work.of(draws), fields, seen, added=added)
    return tuple(value.numpy() for value in (chosen.tokens, chosen.best, chosen.leads))


def some_logits(generator: np.random.Generator, rows: int) -> np.ndarray:
    """With ties, as rounded logits have them."""
    logits = generator.standard_normal((rows, 1, VOCAB)) * 3
    return (np.round(logits * 8) / 8).astype(np.float32)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_row_takes_the_token_that_the_cpu_takes(name):
    config = GenerationConfig(**CONFIGS[name], seed=5)
    generator = np.random.default_rng(0)
    for index in range(40):
        row, twin = (make_row(config, index, VOCAB) for _ in range(2))
        logits = some_logits(generator, 1)
        tokens, best, _ = on_device(logits, draws_of([row]))
        assert tokens[0, 0] == sample(
            logits[0, 0], twin.sampling, twin.generator, twin.edits.after()
        )
        assert row.generator.random() == twin.generator.random(), "as many numbers are drawn"
        if row.edits.is_empty:
            assert best[0, 0] == logits.max()


def test_rows_of_all_kinds_share_a_step_and_do_not_disturb_each_other():
    generator = np.random.default_rng(1)
    configs = [GenerationConfig(**changes, seed=3) for changes in CONFIGS.values()]
    for index in range(10):
        rows = [make_row(config, index, VOCAB) for config in configs]
        twins = [make_row(config, index, VOCAB) for config in configs]
        logits = some_logits(generator, len(rows))
        tokens, _, _ = on_device(logits, draws_of(rows))
        for token, row_logits, twin in zip(tokens[:, 0], logits[:, 0], twins, strict=True):
            assert token == sample(row_logits, twin.sampling, twin.generator, twin.edits.after())


def test_a_row_that_stands_twice_draws_once():
    row = make_row(GenerationConfig(temperature=1.0, seed=1), 0, VOCAB)
    twin = make_row(GenerationConfig(temperature=1.0, seed=1), 0, VOCAB)
    first, second = draws_of([row, row]).uniform
    assert first == second == twin.generator.random()


def test_frequencies_are_those_of_the_distribution():
    """Chi-square of 20,000 tokens, at the 0.1 % quantile."""
    config = GenerationConfig(temperature=1.2, top_k=12, top_p=0.95)
    logits = some_logits(np.random.default_rng(2), 1)
    expected = distribution(logits[0, 0], make_row(config, 0, VOCAB).sampling)
    count = 20_000
    draws = dataclasses.replace(
        repeat(draws_of([make_row(config, 0, VOCAB)]), count),
        uniform=np.random.default_rng(3).random(count),
    )
    tokens, _, _ = on_device(np.repeat(logits, count, axis=0), draws)
    seen = np.array([(tokens == token).sum() for token in expected.token_ids])
    assert seen.sum() == count, "no token outside"
    wanted = count * expected.weights / expected.weights.sum()
    degrees = len(wanted) - 1
    quantile = degrees + 3.1 * np.sqrt(2 * degrees) + 4  # above the 0.1 % point of chi-square
    assert ((seen - wanted) ** 2 / wanted).sum() < quantile


def test_verified_tokens_are_distributed_as_their_target():
    """Chi-square of 20,000 drafted tokens and of those behind them, at the 0.1 % quantile."""
    generator = np.random.default_rng(2)
    count, vocab = 20_000, 12
    origin, first, second = generator.dirichlet(np.full(vocab, 0.7), 3)
    drafted = generator.choice(vocab, count, p=origin)
    draws = dataclasses.replace(
        repeat(draws_of([make_row(GenerationConfig(temperature=1.0), 0, vocab)]), count),
        uniform=generator.random((count, 2)),
        drafted=np.ones(count, np.int64),
    )
    fields = {name: torch.tensor(getattr(draws, name)) for name in (*DRAWS, DRAFTED)}
    logits = torch.tensor(np.log([first, second]), dtype=torch.float32).expand(count, 2, vocab)
    ids = torch.tensor(np.stack([np.zeros(count, np.int64), drafted], axis=1))
    origins = torch.tensor(origin, dtype=torch.float32).expand(count, 1, vocab)
    tokens = choose(logits, Work.of(draws), fields, None, ids, origins).tokens.numpy()
    accepted = tokens[:, 0] == drafted
    assert 0.2 < accepted.mean() < 0.9, "both happen"
    for found, expected in ((tokens[:, 0], first), (tokens[accepted, 1], second)):
        wanted = len(found) * expected
        seen = np.bincount(found, minlength=vocab)
        quantile = vocab - 1 + 3.1 * np.sqrt(2 * (vocab - 1)) + 4
        assert ((seen - wanted) ** 2 / wanted).sum() < quantile


def repeat(draws: Draws, count: int) -> Draws:
    arrays = {name: np.repeat(getattr(draws, name), count) for name in DRAWS}
    return Draws(**arrays)


def test_several_logits_a_row_are_greedy_with_their_leads():
    logits = some_logits(np.random.default_rng(4), 6).reshape(2, 3, VOCAB)
    tokens, best, leads = on_device(logits, Draws.greedy(2, wants_leads=True))
    np.testing.assert_array_equal(tokens, logits.argmax(-1))
    np.testing.assert_array_equal(best, logits.max(-1))
    for row in range(2):
        for index in range(3):
            one = logits[row, index].copy()
            assert leads[row, index] == lead(one, int(one.argmax()))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_show_in_the_best(value):
    logits = np.full((1, 1, VOCAB), -np.inf if value == -np.inf else 0, np.float32)
    logits[0, 0, 7] = value
    config = GenerationConfig(temperature=1.0, top_k=3)
    for draws in (Draws.greedy(1), draws_of([make_row(config, 0, VOCAB)])):
        _, best, _ = on_device(logits, draws)
        assert not np.isfinite(best[0, 0])


def test_only_what_is_asked_for_is_computed():
    rows = [make_row(GenerationConfig(**changes), 0, VOCAB) for changes in CONFIGS.values()]
    by_name = dict(zip(CONFIGS, rows, strict=True))
    assert Work.of(draws_of([by_name["greedy"]])) == Work()
    assert Work.of(draws_of([by_name["plain"]])) == Work(draws=True)
    assert Work.of(draws_of([by_name["top_p"]])) == Work(draws=True, filters=True)
    assert Work.of(draws_of([by_name["greedy, penalised"]])) == Work(penalises=True)
    assert Work.of(draws_of([by_name["greedy, biased"]])) == Work(adds=True)
    logprobs = make_row(GenerationConfig(temperature=0, logprobs=3), 0, VOCAB)
    assert Work.of(draws_of([logprobs])) == Work(logprobs=True)
    assert Work.of(Draws.greedy(1, wants_leads=True)) == Work(leads=True)
