"""The engine of a real model, SmolLM2-135M-Instruct, against RiverDecoder and transformers.

No tolerance on exit layers: the texts are pieces of the built-in calibration text on which every
score that decides keeps a distance of 3e-5 or more from tau, far more than float32's rounding.
"""

import dataclasses
import functools
import importlib.util
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import river_trt
from builders import dialect, river_bank
from builders.build import BuildOptions, build
from builders.calibration_text import BUILT_IN, read_calibration
from builders.checkpoints.demo import INSTALL, PACKAGE, demo_file
from builders.decoder import RiverDecoder
from builders.onnxruntime import build as onnxruntime_build
from builders.quantisers import make_quantiser
from builders.reference import teacher_forced
from builders.source import ModelSource
from river_trt.backends.base import Step
from river_trt.spec import ExitPolicy
from scripts.research.flips import first_flip
from tests.builders.tiny_engines import forced_exit, policy

pytestmark = [
    pytest.mark.real_model,
    pytest.mark.skipif(
        importlib.util.find_spec(PACKAGE) is None,
        reason=f"the demo model is not installed: {INSTALL}",
    ),
]

LAYERS, HIDDEN = 30, 576
FEW = (5, 12, LAYERS)
PINNED = pytest.mark.parametrize("pinned", [(), (LAYERS,), FEW])
TAU = pytest.mark.parametrize("tau", [0.95, 0.97, 0.98])
SHAPE = pytest.mark.parametrize("shape", ["one", "batch"])
DIRECTIONS = np.random.default_rng(0).standard_normal((LAYERS, HIDDEN)).astype(np.float32)
DIRECTION_TAU = 0.05  # random directions score -0.1..0.1

LONG_TEXT = slice(480, 600)  # in tokens of the text
ONE_ROW = slice(480, 540)
ROW_STARTS, ROW_LENGTH = (240, 600, 960, 1020), 15
PROMPTS = ((0, 3), (65, 100), (300, 312), (700, 721))  # starts and ends; lengths all differ
NEW_TOKENS = 32


@dataclass(frozen=True, slots=True, eq=False)
class Demo:
    reference: RiverDecoder
    engine: river_trt.Engine
    text: np.ndarray  # token ids of the calibration text

    def ids(self, shape: str) -> np.ndarray:
        """[1, 60] or [4, 15]."""
        if shape == "one":
            return self.text[None, ONE_ROW]
        return np.stack([self.text[start : start + ROW_LENGTH] for start in ROW_STARTS])

    def assert_equal(self, ids: np.ndarray, chosen: ExitPolicy) -> np.ndarray:
        """Same logits and exit layers in one parallel pass; returns the exit layers."""
        logits, exit_layer = teacher_forced(self.reference, ids, chosen)
        engine_logits, engine_exit_layer = self.engine.forward(ids, chosen)
        np.testing.assert_array_equal(engine_exit_layer, exit_layer)
        np.testing.assert_allclose(engine_logits, logits, atol=2e-3, rtol=0)
        return exit_layer


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Iterator[Demo]:
    """Quantised once, because AWQ takes most of the time: both sides get the same river."""
    directory = tmp_path_factory.mktemp("demo") / "engine"
    kept: list[river_bank.LayerBanks] = []
    stream_layers = river_bank.stream_layers

    def keep(*arguments):
        for bank in stream_layers(*arguments):
            kept.append(bank)
            yield bank

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxruntime_build, "stream_layers", keep)
        manifest = build(
            BuildOptions("demo", directory, river_activation="float32", calibrate=False)
        )
        patch.setattr(river_bank, "stream_layers", lambda *_: iter(kept))
        # The reference unpacks its river in every pass; that is half of these tests' time.
        patch.setattr(dialect, "dequantise", functools.cache(dialect.dequantise))
        source = ModelSource.open("demo")
        river = manifest.river
        made = make_quantiser(river.quantiser, river.group_size, river.symmetric)
        layout = river_bank.river_format(source.config, made, river.group_size, river.symmetric)
        calibration = read_calibration(directory / "tokenizer.json", source.config, None)
        reference = river_bank.load_decoder(source, made, layout, 512, calibration.token_ids)
        engine = river_trt.load(directory, max_seq_len=512, threads=1)
        assert engine.tokenizer is not None
        text = engine.tokenizer.encode(BUILT_IN.read_text(encoding="utf-8"))
        yield Demo(reference, engine, np.array(text))


@pytest.fixture(scope="module")
def transformers_model(demo):  # after the engine's build, so that both are not at their peak
    file = demo_file()
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    return model.eval()


def test_full_depth_text_is_transformers_text(demo, transformers_model):
    """200 greedy tokens; the prompts have one length because transformers would pad them."""
    prompts = np.stack([demo.text[start : start + 12] for start in (0, 150, 400, 800, 1100)])
    config = river_trt.GenerationConfig(max_new_tokens=200, tau=np.inf, pinned=(), ignore_eos=True)
    results = demo.engine.generate(list(prompts), config)
    expected = transformers_model.generate(
        torch.from_numpy(prompts),
        attention_mask=torch.ones(prompts.shape, dtype=torch.int64),
        max_new_tokens=200,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    for row, result in enumerate(results):
        wanted = expected[row, prompts.shape[1] :].tolist()
        assert len(wanted) == 200
        if result.token_ids != wanted:
            pytest.fail(first_difference(transformers_model, prompts[row], result, wanted))
        assert (result.exit_layers == LAYERS).all()


def first_difference(model, prompt: np.ndarray, result, wanted: list[int]) -> str:
    """Where two texts part, and how near a tie transformers' two best logits are there."""
    pairs = zip(result.token_ids, wanted, strict=True)
    place = next(i for i, (token, other) in enumerate(pairs) if token != other)
    ids = torch.tensor([[*prompt.tolist(), *wanted[:place]]])
    with torch.inference_mode():
        best = model(ids).logits[0, -1].topk(2).values
    return (
        f"token {place} is {result.token_ids[place]}, transformers has {wanted[place]}; "
        f"its two best logits are {float(best[0] - best[1]):.2e} apart"
    )


@SHAPE
def test_full_depth_logits_are_transformers_logits(demo, transformers_model, shape):
    ids = demo.ids(shape)
    logits, _ = demo.engine.forward(ids, ExitPolicy.full_depth(LAYERS))
    with torch.inference_mode():
        expected = transformers_model(torch.from_numpy(ids)).logits.numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("layer", range(1, LAYERS + 1))
def test_forced_exit_at_every_layer(demo, layer):
    batch, one = demo.ids("batch"), demo.ids("one")[:, :ROW_LENGTH]
    assert (demo.assert_equal(batch, forced_exit(LAYERS, layer)) == layer).all()
    assert (demo.assert_equal(one, forced_exit(LAYERS, layer, FEW)) == layer).all()


@TAU
@PINNED
@SHAPE
def test_similarity_gate_splits_tokens_alike(demo, tau, pinned, shape):
    exit_layer = demo.assert_equal(demo.ids(shape), policy(LAYERS, tau, pinned))
    assert len(np.unique(exit_layer)) >= 4, "tau must split the tokens"


@PINNED
@SHAPE
def test_direction_gate_splits_tokens_alike(demo, pinned, shape):
    chosen = policy(LAYERS, DIRECTION_TAU, pinned, DIRECTIONS)
    exit_layer = demo.assert_equal(demo.ids(shape), chosen)
    assert len(np.unique(exit_layer)) >= 4, "tau must split the tokens"


@pytest.mark.parametrize("together", [False, True])
def test_lossless_text_is_the_full_depth_text(demo, together, monkeypatch):
    # Whether drafting pays for several rows is the machine's matter.
    monkeypatch.setattr("river_trt.lossless.length.token_cost", lambda step_cost, rows=1: 0.1)
    prompts = [demo.text[start:end].tolist() for start, end in PROMPTS]
    config = river_trt.GenerationConfig(max_new_tokens=60, mode="full", ignore_eos=True)
    full = demo.engine.generate(prompts, config)
    lossless = dataclasses.replace(config, mode="lossless")
    if together:
        results = demo.engine.generate(prompts, lossless)
    else:
        results = [demo.engine.generate([prompt], lossless)[0] for prompt in prompts]
    for prompt, expected, result in zip(prompts, full, results, strict=True):
        flip = first_flip(demo.engine, prompt, expected.token_ids, result.token_ids)
        if flip is not None:
            warnings.warn(f"prompt {prompt}, {flip}", stacklevel=1)
            assert flip.is_near_tie
        assert result.speculation.acceptance > 0.4


def decode(demo: Demo, rows: list[np.ndarray], past: list[int], chosen: ExitPolicy):
    """Each row's tokens after `past`, one a step and all rows together.

    Returns logits [rows, steps, vocab] and exit_layer [rows, steps].
    """
    steps = len(rows[0]) - past[0]
    logits, exit_layer = [], []
    for step in range(steps):
        past_lengths = np.array(past, np.int32) + step
        ids = np.stack([row[at : at + 1] for row, at in zip(rows, past_lengths, strict=True)])
        out = demo.engine.stepper.session.step(
            Step(ids, 0, past_lengths, np.zeros(1, np.int64), chosen)
        )
        logits.append(out.logits.copy())
        exit_layer.append(out.exit_layer.copy())
    return np.concatenate(logits, 1), np.concatenate(exit_layer, 1)


@pytest.mark.parametrize("pinned", [(), (LAYERS,)])
def test_token_by_token_equals_one_parallel_pass(demo, pinned):
    text, chosen = demo.text[LONG_TEXT], policy(LAYERS, 0.97, pinned)
    logits, exit_layer = decode(demo, [text], [0], chosen)
    expected, expected_exit_layer = teacher_forced(demo.reference, text[None], chosen)
    np.testing.assert_array_equal(exit_layer, expected_exit_layer)
    np.testing.assert_allclose(logits, expected, atol=1e-3, rtol=0)
    assert len(np.unique(exit_layer)) > 6, "the tokens must leave at many layers"


@TAU
@pytest.mark.parametrize("directions", [None, DIRECTIONS], ids=["similarity", "direction"])
def test_ragged_rows_decoded_together(demo, tau, directions):
    """Rows of unlike length and unlike exit layers in one step: each equals the reference."""
    past = [end - start for start, end in PROMPTS]
    rows = [demo.text[start : end + 8] for start, end in PROMPTS]
    pinned = () if tau == 0.98 else FEW
    chosen = policy(LAYERS, tau if directions is None else tau - 0.9, pinned, directions)
    full = ExitPolicy.full_depth(LAYERS)
    for index, (row, length) in enumerate(zip(rows, past, strict=True)):
        demo.engine.stepper.session.step(Step.whole(row[None, :length], full, first_row=index))
    logits, exit_layer = decode(demo, rows, past, chosen)
    assert (exit_layer != exit_layer[0]).any(), "no step mixes exit layers"
    for index, (row, length) in enumerate(zip(rows, past, strict=True)):
        expected, expected_exit_layer = teacher_forced(
            demo.reference, row[None], chosen, prompt_length=length
        )
        np.testing.assert_array_equal(exit_layer[index], expected_exit_layer[0, length:])
        np.testing.assert_allclose(logits[index], expected[0, length:], atol=2e-3, rtol=0)


@pytest.mark.parametrize("stop", [(), (".", ",")], ids=["", "rows stop early"])
def test_ragged_batch_generates_what_each_prompt_does_alone(demo, stop):
    """Rows that stop early leave gaps in the cache, which other rows are moved into."""
    prompts = [demo.text[start:end] for start, end in PROMPTS]
    stop_ids = [demo.engine.tokenizer.encode(text)[0] for text in stop]
    config = river_trt.GenerationConfig(
        max_new_tokens=NEW_TOKENS, tau=0.97, pinned=(), ignore_eos=True, stop_token_ids=stop_ids
    )
    together = demo.engine.generate(prompts, config)
    lengths = {len(result.token_ids) for result in together}
    assert (len(lengths) > 2) == bool(stop)
    for prompt, result in zip(prompts, together, strict=True):
        (alone,) = demo.engine.generate([prompt], config)
        assert result.token_ids == alone.token_ids
        assert result.exit_layers.tolist() == alone.exit_layers.tolist()
        # The last token is never fed back.
        ids = np.array([[*prompt, *result.token_ids[:-1]]])
        logits, exit_layer = teacher_forced(
            demo.reference, ids, policy(LAYERS, 0.97), prompt_length=len(prompt)
        )
        assert logits[0, len(prompt) - 1 :].argmax(-1).tolist() == result.token_ids
        assert exit_layer[0, len(prompt) - 1 :].tolist() == result.exit_layers.tolist()
