"""Lossless mode on real kernels: the text, and the cache behind it, are full depth's."""

import warnings

import numpy as np
import pytest

import river_trt
from river_trt import GenerationConfig
from river_trt.cache_rows import CacheRows
from river_trt.lossless import decoding
from river_trt.sampling import Distribution
from river_trt.spec import ExitPolicy
from scripts.research.flips import Flip, first_flip
from tests.builders.tiny_engines import build_pair

VOCAB = 112
PROMPTS = [[int(t) for t in np.random.default_rng(i).integers(3, 99, 3 + i)] for i in range(4)]


@pytest.fixture(scope="module", params=["native", "onnxruntime"])
def engine(request, tmp_path_factory) -> river_trt.Engine:
    directory = tmp_path_factory.mktemp("lossless")
    pair = build_pair(
        directory, kernels=request.param, river_activation="int8", max_position_embeddings=256
    )
    return pair.engine


def texts(engine, mode, tokens, prompts=PROMPTS, **options):
    config = GenerationConfig(max_new_tokens=tokens, ignore_eos=True, mode=mode, **options)
    return engine.generate(prompts, config)


@pytest.mark.parametrize("batch", [1, 4])
def test_greedy_text_is_the_full_depth_text(engine, batch, monkeypatch):
    # Of a tiny model the head is most of the bytes: by its costs it would hardly draft.
    monkeypatch.setattr("river_trt.lossless.length.token_cost", lambda step_cost, rows=1: 0.1)
    full = texts(engine, "full", 200)
    for start in range(0, 4, batch):
        prompts = PROMPTS[start : start + batch]
        for number, result in enumerate(texts(engine, "lossless", 200, prompts), start):
            flip = first_flip(engine, PROMPTS[number], full[number].token_ids, result.token_ids)
            if flip is not None:
                warnings.warn(f"prompt {number}, {flip}", stacklevel=1)
                assert flip.is_near_tie
            assert 0 < result.speculation.accepted.sum() < result.speculation.drafted.sum()


def test_difference_is_named_with_its_gap(engine):
    prompt, full = PROMPTS[0], texts(engine, "full", 6)[0].token_ids
    ids = np.array([[*prompt, *full[:3]]])
    logits = engine.forward(ids, ExitPolicy.full_depth(engine.num_layers))[0][0, -1]
    wrong = int(np.argsort(logits)[0])
    flip = first_flip(engine, prompt, full, [*full[:3], wrong, *full[4:]])
    assert (flip.position, flip.full_depth, flip.lossless) == (3, full[3], wrong)
    assert flip.gap == pytest.approx(float(logits.max() - logits.min()), abs=1e-4)
    assert not flip.is_near_tie and "NO near tie" in str(flip)
    assert "a near tie" in str(Flip(1, 2, 3, 5e-5))
    assert first_flip(engine, prompt, full, full) is None


@pytest.mark.parametrize("seed", range(6))
def test_cache_is_that_of_full_depth_after_any_pattern(engine, monkeypatch, seed):
    """Drafts of random lengths, right and wrong at random, in rows that share their steps."""
    random = np.random.default_rng(seed)
    right = float(random.uniform(0.2, 1.0))
    tokens = int(random.integers(20, 60))
    full = texts(engine, "full", tokens)

    def extend(row, answers, place):
        draft = row.draft
        known = full[row.index].token_ids
        at = len(row.token_ids) + len(draft.token_ids)
        token = known[at] if random.random() < right else int(random.integers(VOCAB))
        wanted = draft.wanted
        draft.add(token, Distribution(np.array([token]), np.ones(1)), 1.0)
        draft.wanted = wanted  # whatever is worth its time
        return []

    found = {}
    remove = CacheRows.remove

    def read_and_remove(rows, row, **options):
        (group,) = rows.groups
        place = group.first + group.places.index(row)
        found[row.index] = engine.stepper.session.read_row(place, row.past_length)
        remove(rows, row, **options)

    monkeypatch.setattr(decoding, "_extend", extend)
    monkeypatch.setattr(CacheRows, "remove", read_and_remove)

    def begin(draft, room, shared):
        draft.wanted, draft.waited = min(room, int(random.integers(0, 9))), False

    monkeypatch.setattr("river_trt.lossless.draft.Draft.begin", begin)
    results = texts(engine, "lossless", tokens)
    monkeypatch.undo()
    patterns = set()
    for number, result in enumerate(results):
        assert result.token_ids == full[number].token_ids
        speculation = result.speculation
        patterns |= set(
            zip(speculation.drafted.tolist(), speculation.accepted.tolist(), strict=True)
        )
        ids = np.array([[*PROMPTS[number], *result.token_ids[:-1]]])
        engine.forward(ids, ExitPolicy.full_depth(engine.num_layers))
        expected = engine.read_cache(0, ids.shape[1])
        assert found[number].shape == expected.shape
        np.testing.assert_allclose(found[number], expected, atol=1e-4, rtol=0)
    assert len(patterns) > 8


def test_river_writes_other_keys_and_values(engine):
    """So the equality of caches above cannot hold without the verification's writes."""
    ids = np.array([[*PROMPTS[0], *PROMPTS[1]]])
    caches = []
    for policy in (
        ExitPolicy.full_depth(engine.num_layers),
        ExitPolicy.uniform(engine.num_layers, -np.inf),
    ):
        engine.forward(ids, policy)
        caches.append(engine.read_cache(0, ids.shape[1]))
    assert np.abs(caches[0] - caches[1]).max() > 0.05


def test_rows_of_a_pass_do_not_depend_on_their_number(engine):
    """A verification gives each token the logits that decoding it alone gives."""
    full = ExitPolicy.full_depth(engine.num_layers)
    ids = np.array([PROMPTS[3] * 3])[:, :16]
    alone = [
        engine.forward(ids[:, i : i + 1], full, past_length=i)[0][0, 0] for i in range(ids.shape[1])
    ]
    native = engine.manifest.backend.kernels == "native"
    for tokens in range(2, 9):
        engine.forward(ids[:, :3], full)
        logits = engine.forward(ids[:, 3 : 3 + tokens], full, past_length=3)[0][0]
        for i in range(tokens):
            gap = np.abs(logits[i] - alone[3 + i]).max()
            assert (
                gap == 0 if native and engine.manifest.precision.lm_head_bits < 16 else gap < 1e-4
            )
