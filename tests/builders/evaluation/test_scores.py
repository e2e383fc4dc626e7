"""A tiny engine and its torch reference, scored."""

import numpy as np
import pytest
import torch

import river_trt
from builders.evaluation import scores as scores_module
from builders.evaluation.results import NamedPolicy, summarise
from builders.evaluation.scores import POLICY_ROW, cache_cosine, score
from builders.evaluation.subject import DecoderSubject, EngineSubject, Subject
from builders.evaluation.text import TextOptions, compared_policies, read_pieces
from river_trt.errors import RiverError
from river_trt.spec import ExitPolicy
from tests.builders.tiny_engines import Pair, build_pair, policy

LAYERS, SKIP, TOKENS = 4, 4, 40
MIXED = policy(LAYERS, 0.8, (3,))
POLICIES = [ExitPolicy.full_depth(LAYERS), ExitPolicy.uniform(LAYERS, -np.inf), MIXED]
PIECES = list(np.random.default_rng(0).integers(0, 100, (3, TOKENS)))
PIECES[2] = PIECES[2][:23]


def quiet(stage: str, done: int, total: int) -> None:
    pass


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Pair:
    return build_pair(tmp_path_factory.mktemp("pair"), with_tokenizer=True)


@pytest.fixture(scope="module")
def engine(pair) -> EngineSubject:
    return EngineSubject(pair.engine)


@pytest.fixture(scope="module")
def reference(pair) -> DecoderSubject:
    assert pair.engine.tokenizer is not None
    return DecoderSubject(
        pair.reference, pair.engine.tokenizer, "tiny", "0" * 64, "rtn", 64, policy(LAYERS, 0.8)
    )


def test_engine_and_reference_score_alike(engine, reference):
    for found, expected in zip(
        score(engine, PIECES, POLICIES, SKIP, quiet),
        score(reference, PIECES, POLICIES, SKIP, quiet),
        strict=True,
    ):
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one.kl, other.kl, atol=1e-3)
            np.testing.assert_allclose(one.surprise, other.surprise, atol=2e-3)
            np.testing.assert_array_equal(one.agreed, other.agreed)
            np.testing.assert_array_equal(one.exit_layer, other.exit_layer)
            np.testing.assert_allclose(one.k_cosine, other.k_cosine, atol=1e-4)
            np.testing.assert_allclose(one.v_cosine, other.v_cosine, atol=1e-4)


@pytest.mark.parametrize("which", ["engine", "reference"])
def test_perplexity_is_that_of_decoding_token_by_token(request, which):
    subject: Subject = request.getfixturevalue(which)
    for chosen in POLICIES:
        scores = score(subject, PIECES, [chosen], SKIP, quiet)[0]
        result = summarise(NamedPolicy("", chosen), scores)
        nats, exits = [], []
        for ids in PIECES:
            for position in range(len(ids) - 1):
                logits, exit_layer = subject.step(
                    POLICY_ROW, position, ids[position : position + 1], chosen
                )
                if position >= SKIP:
                    log_p = torch.from_numpy(logits[0]).double().log_softmax(-1)
                    nats.append(-log_p[ids[position + 1]].item())
                    exits.append(int(exit_layer[0]))
        assert result.positions == len(nats)
        assert result.perplexity.value == pytest.approx(np.exp(np.mean(nats)), rel=1e-4)
        assert result.exit_counts == tuple(np.bincount(exits, minlength=LAYERS + 1)[1:])
    assert len(set(exits)) >= 3, "tau must split the tokens"


@pytest.mark.parametrize("chunk", [7, 5, 1])  # 5: the first scored position begins a chunk
def test_chunks_change_nothing(engine, monkeypatch, chunk):
    whole = score(engine, PIECES, [MIXED], SKIP, quiet)[0]
    monkeypatch.setattr(scores_module, "CHUNK", chunk)
    for one, other in zip(score(engine, PIECES, [MIXED], SKIP, quiet)[0], whole, strict=True):
        np.testing.assert_allclose(one.kl, other.kl, atol=1e-4)
        np.testing.assert_allclose(one.surprise, other.surprise, atol=1e-4)
        np.testing.assert_array_equal(one.exit_layer, other.exit_layer)
        np.testing.assert_allclose(one.k_cosine, other.k_cosine, atol=1e-5)


def test_full_depth_loses_nothing(engine):
    scores = score(engine, PIECES, POLICIES[:1], SKIP, quiet)[0]
    result = summarise(NamedPolicy("backbone", POLICIES[0]), scores)
    assert result.kl.value == pytest.approx(0, abs=1e-6)
    assert (result.agreement.value, result.backbone_layers.value) == (1.0, LAYERS)
    for cosines in (result.k_cosine, result.v_cosine):
        assert cosines == pytest.approx((1.0,) * LAYERS, abs=1e-6)


def test_cache_of_the_layers_before_the_exit_is_the_backbones(engine):
    """Layer 1 runs the backbone for every token, so all river differs from layer 2 on."""
    river = score(engine, PIECES, [POLICIES[1]], SKIP, quiet)[0]
    result = summarise(NamedPolicy("all river", POLICIES[1]), river)
    assert [result.k_cosine[0], result.v_cosine[0]] == pytest.approx([1, 1], abs=1e-6)
    assert all(0.5 < cosine < 0.9999 for cosine in (*result.k_cosine[1:], *result.v_cosine[1:]))
    assert result.exit_counts == (result.positions, 0, 0, 0)


def test_cache_cosine_averages_heads_and_positions():
    a = np.zeros((1, 2, 2, 1, 2), np.float32)  # [L, 2, heads, positions, head_dim]
    a[..., 0] = 1
    b = a.copy()
    b[0, 1, 0, 0] = 0, 5  # V of one head of two stands at a right angle
    k, v = cache_cosine(a, b)
    assert (k.tolist(), v.tolist()) == ([1.0], [0.5])


def test_hidden_states_of_engine_and_reference(engine, reference):
    for last in (LAYERS - 1, 1, 0):
        found, expected = (
            subject.hidden_states(PIECES[0], last) for subject in (engine, reference)
        )
        assert found.shape == expected.shape == (last + 1, TOKENS, 64)
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_policies_that_are_compared(engine):
    names = [p.name for p in compared_policies(engine, [0.9, (1.0, 0.5, 0.5, 0.5)], None)]
    assert names == ["backbone", "all river", "River", "tau 0.9", "tau a layer"]
    *_, own, tau = compared_policies(engine, [0.9], (1, 2))
    assert own.policy.pinned.tolist() == [False, False, False, True]  # as built
    assert tau.policy.pinned.tolist() == [True, True, False, False]
    with pytest.raises(RiverError, match="tau has 2 values"):
        compared_policies(engine, [(0.9, 0.9)], None)


def test_pieces_of_a_file(engine, tmp_path):
    (tmp_path / "a.txt").write_text(" ".join(f"w{n % 100}" for n in range(90)))
    pieces = read_pieces(engine, TextOptions(tmp_path / "a.txt", 2, 20, SKIP))
    assert [piece.tolist() for piece in pieces] == [[*range(20)], [*range(80, 90)]]


@pytest.mark.parametrize("name", ["pieces", "piece_tokens", "skip", "seed"])
def test_options_are_checked(tmp_path, name):
    with pytest.raises(RiverError, match=f"{name} must be at least ., got -1"):
        TextOptions(tmp_path, **{name: -1})


def test_engine_without_a_second_row_is_refused(pair):
    small = river_trt.load(pair.directory, max_batch_size=1)
    with pytest.raises(RiverError, match="max_batch_size must be at least 2, got 1"):
        EngineSubject(small)
