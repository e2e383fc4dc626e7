"""Every family against transformers: the torch reference and the ONNX Runtime engine.

With ONNX Runtime's own kernels, and with the native ones where they compute the family. The texts
are several sliding windows long.
"""

import dataclasses
import functools
import warnings

import numpy as np
import pytest
import torch

import river_trt
from builders.calibration_inputs import CalibrationInputs
from builders.decoder import RiverDecoder, RiverFormat
from builders.families import FAMILIES
from builders.reference import teacher_forced
from builders.source import ModelSource
from river_trt.backends.base import Step
from river_trt.spec import ExitPolicy
from scripts.research.flips import first_flip
from tests.builders.families.tiny_models import LAYERS, TINY_MODELS, WINDOW, save_tiny_model
from tests.builders.tiny_engines import Pair, forced_exit, pair_of, policy

IDS = np.random.default_rng(0).integers(3, 112, (2, 5 * WINDOW))
FULL_DEPTH = ExitPolicy.full_depth(LAYERS)
PROMPT = 2 * WINDOW


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Pairs by name, each built when it is first asked for."""

    @functools.cache
    def build(name: str, kernels: str = "onnxruntime") -> Pair:
        directory = tmp_path_factory.mktemp(name)
        tiny = TINY_MODELS[name]
        model = save_tiny_model(directory / "model", tiny)
        return pair_of(directory, model, tiny.quantiser, kernels=kernels)

    return build


BOTH = [name for name in TINY_MODELS if name not in ("gemma2", "ministral3")]


@pytest.fixture(
    params=[*((name, "onnxruntime") for name in TINY_MODELS), *((name, "native") for name in BOTH)],
    ids="-".join,
    scope="module",
)
def pair(request, pairs) -> Pair:
    return pairs(*request.param)


@torch.inference_mode()
def hf_logits(pair: Pair) -> np.ndarray:
    return pair.hf(torch.from_numpy(IDS)).logits.numpy()


@pytest.fixture
def splitting(pair) -> ExitPolicy:
    """At each layer about half of the texts' tokens pass the gate."""
    with torch.inference_mode():
        hidden = pair.hf(torch.from_numpy(IDS), output_hidden_states=True).hidden_states
    scores = [torch.cosine_similarity(*hidden[i : i + 2], dim=-1) for i in range(LAYERS)]
    return policy(LAYERS, [float(score.flatten().quantile(0.5)) for score in scores])


def test_every_family_is_here():
    supported = {name for family in FAMILIES for name in family.architectures}
    assert supported == {tiny.architecture for tiny in TINY_MODELS.values()}


def test_full_depth_equals_transformers(pair):
    expected = hf_logits(pair)
    reference, _ = teacher_forced(pair.reference, IDS, FULL_DEPTH)
    engine, _ = pair.engine.forward(IDS, FULL_DEPTH)
    np.testing.assert_allclose(reference, expected, atol=1e-3, rtol=0)
    np.testing.assert_allclose(engine, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("layer", range(1, LAYERS + 1))
def test_forced_exit_equals_the_reference(pair, layer):
    exit_layer = pair.assert_equal(IDS, forced_exit(LAYERS, layer))
    assert (exit_layer == layer).all()


def test_gate_splits_the_tokens_alike(pair, splitting):
    exit_layer = pair.assert_equal(IDS, splitting)
    assert set(np.unique(exit_layer)) == set(range(1, LAYERS + 1))


def test_river_is_really_used(pair):
    full, _ = pair.engine.forward(IDS, FULL_DEPTH)
    river, _ = pair.engine.forward(IDS, forced_exit(LAYERS, 1))
    assert np.abs(full - river).max() > 0.05


@pytest.mark.parametrize("chunk", [1, 7])
def test_steps_over_a_filled_cache_equal_one_pass(pair, splitting, chunk):
    logits, exit_layer = pair.engine.forward(IDS[:1], splitting)
    for start in range(0, IDS.shape[1], chunk):
        part = IDS[:1, start : start + chunk]
        step = pair.engine.stepper.session.step(Step.whole(part, splitting, past_length=start))
        columns = slice(start, start + chunk)
        np.testing.assert_array_equal(step.exit_layer, exit_layer[:, columns])
        np.testing.assert_allclose(step.logits, logits[:, columns], atol=1e-4, rtol=0)


def test_greedy_text_equals_transformers_and_the_reference(pair, splitting):
    """At full depth and with exits; the text goes on for several windows."""
    prompts = [row[:PROMPT].tolist() for row in IDS]
    for chosen in (FULL_DEPTH, splitting):
        config = river_trt.GenerationConfig(
            max_new_tokens=4 * WINDOW, tau=chosen.tau.tolist(), pinned=(), ignore_eos=True
        )
        for prompt, result in zip(prompts, pair.engine.generate(prompts, config), strict=True):
            ids = np.array([[*prompt, *result.token_ids[:-1]]])  # the last one is never fed back
            logits, exit_layer = teacher_forced(
                pair.reference, ids, chosen, prompt_length=len(prompt)
            )
            assert logits[0, PROMPT - 1 :].argmax(-1).tolist() == result.token_ids
            assert exit_layer[0, PROMPT - 1 :].tolist() == result.exit_layers.tolist()
            if chosen is FULL_DEPTH:
                text = pair.hf.generate(
                    torch.tensor([prompt]),
                    max_new_tokens=4 * WINDOW,
                    do_sample=False,
                    eos_token_id=None,
                    pad_token_id=0,
                )
                assert result.token_ids == text[0, PROMPT:].tolist()


def test_lossless_text_is_the_full_depth_text(pair, monkeypatch):
    """40 prompts of 200 tokens, or up to the end of the cache."""
    # Of a tiny model the head is most of the bytes: by its costs it would hardly draft.
    monkeypatch.setattr("river_trt.lossless.length.token_cost", lambda step_cost, rows=1: 0.1)
    prompts = np.random.default_rng(1).integers(3, 112, (40, WINDOW)).tolist()
    config = river_trt.GenerationConfig(max_new_tokens=200, mode="full", ignore_eos=True)
    full = pair.engine.generate(prompts, config)
    found = pair.engine.generate(prompts, dataclasses.replace(config, mode="lossless"))
    for prompt, expected, result in zip(prompts, full, found, strict=True):
        flip = first_flip(pair.engine, prompt, expected.token_ids, result.token_ids)
        if flip is not None:
            warnings.warn(f"prompt {prompt}, {flip}", stacklevel=1)
            assert flip.is_near_tie
    accepted = sum(result.speculation.accepted.sum() for result in found)
    drafted = sum(result.speculation.drafted.sum() for result in found)
    assert 0 < accepted < drafted


def test_calibration_reads_what_the_backbone_computes(pair):
    """The hidden states that AWQ's inputs come from end in transformers' logits."""
    source = ModelSource.open(str(pair.directory.parent / "model"))
    shared = source.shared()
    calibration = CalibrationInputs(source.config, shared.embedding, torch.from_numpy(IDS))
    for layer in range(LAYERS):
        calibration.advance(source.layer(layer))
    decoder = pair.reference
    logits = torch.nn.functional.linear(decoder.norm(calibration.h), decoder.lm_head)
    cap = source.config.final_softcap
    logits = logits if cap is None else cap * (logits / cap).tanh()
    np.testing.assert_allclose(logits.numpy(), hf_logits(pair), atol=1e-3, rtol=0)


FEATURES = [(name, feature) for name, tiny in TINY_MODELS.items() for feature in tiny.features]


@pytest.mark.parametrize(("name", "feature"), FEATURES)
def test_feature_changes_the_logits(pairs, name, feature):
    """So the equalities above cannot hold without it."""
    reference = pairs(name).reference
    config = reference.config
    change = TINY_MODELS[name].features[feature](config)
    altered = dataclasses.replace(config, **change)
    assert altered != config
    river = RiverFormat(32, symmetric=False, scaled=frozenset())
    other = RiverDecoder(altered, river, IDS.shape[1]).eval()
    tables = set(other.table_names)
    weights = {n: w for n, w in reference.state_dict().items() if n not in tables}
    other.load_state_dict(weights, strict=False, assign=True)
    expected, _ = teacher_forced(reference, IDS, FULL_DEPTH)
    found, _ = teacher_forced(other, IDS, FULL_DEPTH)
    assert np.abs(found - expected).max() > 0.02
