"""Sampled texts follow the backbone's distribution, whatever the river's is."""

from dataclasses import replace
from math import erfc, sqrt

import numpy as np
import pytest

from river_trt import GenerationConfig
from river_trt.lossless import answers
from river_trt.lossless.acceptance import verify_token
from river_trt.manifest import SamplingInfo
from river_trt.sampling import Distribution, Edit, distribution, resolve_sampling

VOCAB = 8
DRAWS = 20_000
CONFIG = GenerationConfig(max_new_tokens=DRAWS // 8 + 200, ignore_eos=True, mode="lossless")
OPTIONS = [
    {"temperature": 1.0},
    {"temperature": 0.6},
    {"temperature": 1.5, "top_k": 3},
    {"temperature": 1.2, "top_p": 0.8},
    {"temperature": 1.3, "min_p": 0.2},
    {"temperature": 1.0, "logit_bias": {0: -100, 3: 1.5}, "top_p": 0.95},
    {"temperature": 1.0, "top_k": 6, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.3},
]


def markov(tokens, drafting):
    """Logits that depend on the last token; the river's differ a good deal."""
    last = int(tokens[-1])
    logits = np.random.default_rng(last).standard_normal(VOCAB) * 1.5
    if drafting:
        logits += np.random.default_rng(100 + last).standard_normal(VOCAB)
    return logits.astype(np.float32)


def chi_square_p(counts, expected):
    """Upper tail of the chi-square distribution (Wilson and Hilferty's normal approximation)."""
    freedom = len(counts) - 1
    if freedom == 0:
        return 1.0
    statistic = ((counts - expected) ** 2 / expected).sum()
    z = ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / sqrt(2 / (9 * freedom))
    return erfc(z / sqrt(2)) / 2


def least_p(texts, config):
    """Of the tokens after each token, against what full depth draws them from."""
    seen, added = None, np.zeros(VOCAB, np.float32)
    if config.repetition_penalty:
        seen = np.ones(VOCAB, np.bool_)
    for token, value in dict(config.logit_bias).items():
        added[token] = value
    edit = Edit(seen, added)
    counts = np.zeros((VOCAB, VOCAB))
    for text in texts:
        settled = text[200:]  # by then a repetition penalty has seen every token
        np.add.at(counts, (settled[:-1], settled[1:]), 1)
    assert counts.sum() >= DRAWS - 8
    found = []
    for last in np.flatnonzero(counts.sum(1)):
        sampling = resolve_sampling(config, SamplingInfo())
        target = distribution(markov([last], False), sampling, edit)
        expected = target.probabilities(np.arange(VOCAB)) * counts[last].sum()
        assert (counts[last][expected == 0] == 0).all(), "a token that full depth never draws"
        possible = expected > 0
        found.append(chi_square_p(counts[last][possible], expected[possible]))
    return min(found) * VOCAB  # Bonferroni


def texts_of(make_lossless_engine, config, on_device=False):
    engine = make_lossless_engine(
        markov, max_batch_size=8, max_seq_len=4096, vocab=VOCAB, on_device=on_device
    )
    results = engine.generate([list(range(VOCAB))] * 8, config)
    if config.temperature:
        shares = [result.speculation.acceptance for result in results]
        assert 0.3 < np.mean(shares) < 0.97, "acceptance and rejection must both occur"
    return [np.array(result.token_ids) for result in results]


@pytest.mark.parametrize("options", OPTIONS)
def test_next_tokens_are_distributed_as_at_full_depth(make_lossless_engine, options):
    config = replace(CONFIG, seed=11, **options)
    texts = texts_of(make_lossless_engine, config)
    assert least_p(texts, config) > 0.01


@pytest.mark.parametrize(
    "options",
    [
        *OPTIONS,
        {"temperature": 0.0, "repetition_penalty": 1.3},
        {"temperature": 0.0, "presence_penalty": 0.7, "frequency_penalty": 0.1, "logprobs": 3},
        {"temperature": 1.0, "presence_penalty": 0.7, "frequency_penalty": 0.01},
        {"temperature": 1.0, "max_draft_tokens": 12},  # more than a recording holds
        {"temperature": 1.0, "stop_token_ids": (3,)},  # rows end, and others take their places
    ],
)
def test_a_session_that_verifies_gives_the_same_texts(make_lossless_engine, options):
    """By the same numbers of each row's generator: so they are distributed alike too."""
    config = replace(CONFIG, seed=11, max_new_tokens=250, **options)
    on_host, on_device = (texts_of(make_lossless_engine, config, device) for device in (0, 1))
    for one, other in zip(on_host, on_device, strict=True):
        np.testing.assert_array_equal(one, other)


def always_accept(drafted, draft, target, generator):
    return drafted


def accept_without_the_residual(drafted, draft, target, generator):
    token = verify_token(drafted, draft, target, generator)
    return token if token == drafted else target.draw(generator)


def accept_by_target_alone(drafted, draft, target, generator):
    (share,) = target.probabilities(np.array([drafted]))
    return drafted if generator.random() < share else target.draw(generator)


@pytest.mark.parametrize(
    "broken", [always_accept, accept_without_the_residual, accept_by_target_alone]
)
def test_broken_acceptance_rule_is_found_out(make_lossless_engine, monkeypatch, broken):
    monkeypatch.setattr(answers, "verify_token", broken)
    config = replace(CONFIG, seed=11, temperature=1.0)
    engine = make_lossless_engine(markov, max_batch_size=8, max_seq_len=4096, vocab=VOCAB)
    results = engine.generate([list(range(VOCAB))] * 8, config)
    assert least_p([np.array(r.token_ids) for r in results], config) < 1e-6


def test_seed_fixes_the_text_whatever_shares_the_batch(make_lossless_engine):
    config = GenerationConfig(
        max_new_tokens=25, ignore_eos=True, mode="lossless", temperature=1.1, seed=3
    )
    engine = make_lossless_engine(0.7)
    batch = engine.generate([[1], [2, 3], [4]], config)
    again = make_lossless_engine(0.7).generate([[1], [2, 3], [4]], config)
    assert [r.token_ids for r in batch] == [r.token_ids for r in again]
    alone = engine.generate([2, 3], replace(config, seed=4))[0]
    assert alone.token_ids == batch[1].token_ids
    assert engine.generate([1], replace(config, seed=8))[0].token_ids != batch[0].token_ids


def test_rejected_token_comes_from_what_the_draft_left():
    generator = np.random.default_rng(0)
    draft = Distribution(np.array([1, 4]), np.array([3.0, 1.0]))
    target = Distribution(np.array([1, 2]), np.array([1.0, 1.0]))
    tokens = [verify_token(1, draft, target, generator) for _ in range(6000)]
    assert set(tokens) == {1, 2}
    assert abs(tokens.count(1) / 6000 - 0.5 / 0.75) < 0.03
    assert {verify_token(4, draft, target, generator) for _ in range(50)} == {2}
    assert {verify_token(1, draft, draft, generator) for _ in range(200)} == {1}
