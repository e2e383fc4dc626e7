import numpy as np
import pytest
import torch

from builders.evaluation import agreement, evaluate, kl_divergence, surprise
from river_trt.spec import ExitPolicy

LAYERS, TOKENS, VOCAB, SKIP = 4, 12, 7, 3
TEXTS = np.random.default_rng(0).integers(0, VOCAB, (3, TOKENS))


def fake_logits(ids: np.ndarray, depth: int) -> np.ndarray:
    """Logits that depend on the text and on the layer it exits after; [1, tokens, vocab]."""
    seed = int(ids.sum()) * 10 + depth
    return np.random.default_rng(seed).standard_normal((1, TOKENS, VOCAB)).astype(np.float32)


def fake_run(ids: np.ndarray, policy: ExitPolicy) -> tuple[np.ndarray, np.ndarray]:
    """Every token exits after the first layer with tau = -inf."""
    forced = np.flatnonzero(policy.tau == -np.inf)
    depth = int(forced[0]) + 1 if len(forced) else LAYERS
    return fake_logits(ids, depth), np.full((1, TOKENS), depth, np.int32)


def test_kl_equals_torch_and_is_zero_for_the_same_distribution():
    a, b = torch.randn(2, 5, VOCAB, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.kl_div(
        b.log_softmax(-1), a.log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1)
    torch.testing.assert_close(kl_divergence(a, b), expected)
    torch.testing.assert_close(kl_divergence(a, a + 3.0), torch.zeros(5), atol=1e-6, rtol=0)


def test_kl_weighs_by_the_reference():
    """KL is not symmetric: what the reference finds impossible costs nothing."""
    certain, even = torch.tensor([20.0, 0.0]), torch.tensor([0.0, 0.0])
    assert kl_divergence(certain, even).item() == pytest.approx(np.log(2), abs=1e-4)
    assert kl_divergence(even, certain).item() == pytest.approx(10 - np.log(2), abs=1e-4)


def test_agreement_compares_the_likeliest_token():
    reference = torch.tensor([[1.0, 2.0, 0.0], [3.0, 2.0, 0.0]])
    assert agreement(reference, reference[:, [0, 1, 2]] * 2).tolist() == [True, True]
    assert agreement(reference, torch.tensor([[0.0, 0.0, 1.0], [3.0, 2.9, 0.0]])).tolist() == [
        False,
        True,
    ]


def test_surprise_of_an_even_guess_is_log_vocab():
    nats = surprise(torch.zeros(4, VOCAB), torch.tensor([0, 3, 5, 6]))
    torch.testing.assert_close(nats, torch.full((4,), float(np.log(VOCAB))))


def test_policy_equal_to_full_depth_loses_nothing():
    (quality,) = evaluate(fake_run, TEXTS, [ExitPolicy.full_depth(LAYERS)], SKIP)
    assert quality.kl == pytest.approx(0, abs=1e-6)
    assert (quality.agreement, quality.backbone_layers) == (1.0, LAYERS)
    assert quality.positions == len(TEXTS) * (TOKENS - SKIP)


def test_means_are_over_the_positions_of_all_texts():
    policies = [ExitPolicy.uniform(LAYERS, -np.inf), ExitPolicy.full_depth(LAYERS)]
    policies[0].pinned[3] = True
    quality, _ = evaluate(fake_run, TEXTS, policies, SKIP)
    kl, agreed, nats = [], [], []
    for ids in TEXTS:
        log_p, log_q = (
            torch.from_numpy(fake_logits(ids, depth)[0]).double().log_softmax(-1)
            for depth in (LAYERS, 1)
        )
        for position in range(SKIP, TOKENS):
            p, q = log_p[position], log_q[position]
            kl.append((p.exp() * (p - q)).sum().item())
            agreed.append(p.argmax() == q.argmax())
            if position + 1 < TOKENS:  # logits at a position are of the token after it
                nats.append(-q[ids[position + 1]].item())
    assert quality.kl == pytest.approx(np.mean(kl), rel=1e-5)
    assert quality.agreement == pytest.approx(np.mean(agreed))
    assert quality.perplexity == pytest.approx(np.exp(np.mean(nats)), rel=1e-5)
    assert quality.backbone_layers == 2  # layer 1, and the pinned one


def test_another_reference():
    quality, same = (
        evaluate(
            fake_run,
            TEXTS,
            [ExitPolicy.uniform(LAYERS, -np.inf)],
            SKIP,
            reference=lambda ids, depth=depth: fake_logits(ids, depth),
        )[0]
        for depth in (2, 1)
    )
    assert quality.kl > 0.1 and same.kl == pytest.approx(0, abs=1e-6)
    assert quality.perplexity == same.perplexity
