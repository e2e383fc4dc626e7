"""The LM head's river: rare tokens in 4 bits, and only for tokens that left the backbone."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import river_trt
from builders.build import BuildOptions, build
from builders.onnxruntime import build as onnxruntime_build
from builders.onnxruntime.river_head import frequent_tokens, quantise_rare
from builders.quantisers import make_quantiser
from builders.quantisers.integer import quantise_integer
from builders.reference import teacher_forced
from builders.river_bank import load_decoder, river_format
from builders.source import ModelSource
from river_trt import GenerationConfig
from river_trt.benchmark.reads import weight_bytes
from river_trt.cli.main import main
from river_trt.errors import RiverError
from river_trt.manifest import ByteCounts
from tests.builders.tiny_engines import TINY, forced_exit, policy
from tests.builders.tiny_llama import save_tiny_llama

IDS = np.random.default_rng(0).integers(3, 112, (3, 9))
GROUP, VOCAB, LAYERS, FREQUENT = 32, 112, 4, 16


@dataclasses.dataclass(frozen=True)
class Made:
    """An engine with a river head, and the reference with the head that each bank has."""

    directory: Path
    engine: river_trt.Engine
    whole: torch.nn.Module
    with_rare: torch.nn.Module


def build_one(directory, **changes):
    save_tiny_llama(directory / "model", **TINY)
    options = {"quantiser": "rtn", "group_size": GROUP, "calibrate": False} | changes
    return build(BuildOptions(str(directory / "model"), directory / "engine", **options))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    directory = tmp_path_factory.mktemp("river-head")
    found = []

    def spy(*arguments):
        found.append(quantise_rare(*arguments))
        return found[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxruntime_build, "quantise_rare", spy)
        build_one(
            directory,
            lm_head_bits=8,
            river_head_bits=4,
            backbone_bits=32,
            kv_cache="float32",
            river_activation="float32",  # the reference does not round activations
        )
    source = ModelSource.open(str(directory / "model"))
    hidden = source.config.hidden_size
    head = quantise_integer(source.shared().lm_head, 8, GROUP).dequantise(hidden)
    rare = torch.cat([head[:FREQUENT], found[0].dequantise(hidden)])
    quantiser = make_quantiser("rtn", GROUP, False)
    river = river_format(source.config, quantiser, GROUP, False)
    whole, with_rare = (
        load_decoder(source, quantiser, river, IDS.shape[1], lm_head=weight)
        for weight in (head, rare)
    )
    return Made(directory / "engine", river_trt.load(directory / "engine"), whole, with_rare)


def middle_tau(made: Made) -> float:
    """A threshold that some of the tokens pass."""
    for tau in np.linspace(-0.9, 0.99, 40):
        _, exits = teacher_forced(made.whole, IDS, policy(LAYERS, tau))
        if 0.2 < (exits < LAYERS).mean() < 0.8:
            return float(tau)
    raise AssertionError("some threshold parts the tokens")


@pytest.mark.parametrize("kind", ["full depth", "all left", "mixed", "left, pinned at the end"])
def test_each_token_has_the_head_of_its_bank(made, kind):
    chosen = {
        "full depth": policy(LAYERS, np.inf),
        "all left": forced_exit(LAYERS, 1),
        "mixed": policy(LAYERS, middle_tau(made)),
        "left, pinned at the end": forced_exit(LAYERS, 2, (LAYERS,)),
    }[kind]
    whole, exits = teacher_forced(made.whole, IDS, chosen)
    with_rare, _ = teacher_forced(made.with_rare, IDS, chosen)
    left = exits < LAYERS
    expected = np.where(left[..., None], with_rare, whole)
    assert np.abs(with_rare - whole).max() > 0.02, "the heads must differ"
    assert (left.any(), left.all()) == {"full depth": (False, False), "mixed": (True, False)}.get(
        kind, (True, True)
    )
    logits, found = made.engine.forward(IDS, chosen)
    np.testing.assert_array_equal(found, exits)
    np.testing.assert_allclose(logits, expected, atol=2e-3, rtol=0)


def test_rows_of_a_step_do_not_know_each_other(made):
    mixed = policy(LAYERS, middle_tau(made))
    together, exits = made.engine.forward(IDS, mixed)
    assert 0 < (exits < LAYERS).mean() < 1
    for row in range(len(IDS)):
        alone, _ = made.engine.forward(IDS[row : row + 1], mixed)
        np.testing.assert_array_equal(alone[0], together[row])


@pytest.mark.parametrize("activation", ["int8", "float32"])
def test_drafts_use_it_and_the_text_is_full_depths(tmp_path, activation, monkeypatch):
    monkeypatch.setattr("river_trt.lossless.length.token_cost", lambda step_cost, rows=1: 0.1)
    manifest = build_one(tmp_path, river_head_bits=4, river_activation=activation, lm_head_bits=8)
    engine = river_trt.load(tmp_path / "engine")
    texts = {}
    for mode in ("full", "lossless"):
        config = GenerationConfig(max_new_tokens=60, ignore_eos=True, mode=mode)
        texts[mode] = engine.generate([[5, 9, 40]], config)[0]
    assert texts["lossless"].token_ids == texts["full"].token_ids
    assert texts["lossless"].speculation.drafted.sum() > 0
    counts = manifest.bytes_per_layer
    rare = (VOCAB - FREQUENT) * 64 // 2 + (VOCAB - FREQUENT) * 2 * 5 + 64 * 4  # codes, grid, scale
    assert counts.river_head == counts.lm_head * FREQUENT // VOCAB + rare
    assert counts.both_heads == counts.lm_head + rare


def test_what_a_step_reads():
    counts = ByteCounts(100, 10, lm_head=70, embedding=1, river_head=30, both_heads=90)
    pinned = np.zeros(4, np.bool_)
    steps = {(4, 4): 90 - 20, (1, 4): 90, (1, 1): 30}  # where two rows left: the head's bytes
    for rows, head in steps.items():
        exits = np.array(rows)[:, None]
        layers = weight_bytes(exits, pinned, dataclasses.replace(counts, river_head=None))
        assert weight_bytes(exits, pinned, counts) == layers - 70 + head
    assert counts.per_token(4, 4) == 4 * 100 + 70 + 1
    assert counts.per_token(1, 4) == 100 + 3 * 10 + 30 + 1
    assert counts.per_token(2, 4, left=1.0) == 2 * 100 + 2 * 10 + 30 + 1


def test_rounding_by_curvature_costs_less_than_rounding_to_nearest():
    torch.manual_seed(0)
    mixed = torch.randn(64, 64)
    inputs, head = torch.randn(512, 64) @ mixed, torch.randn(200, 64)
    rare = quantise_rare(head, inputs, 48, GROUP).dequantise(64)
    nearest = make_quantiser("rtn", GROUP, False).quantise(head[48:]).dequantise(64)
    errors = [
        float((inputs @ (weight - head[48:]).T).square().mean()) for weight in (rare, nearest)
    ]
    assert errors[0] < 0.6 * errors[1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kernels": "onnxruntime"}, "needs the native kernels"),
        ({"lm_head_bits": 16}, "with an LM head of 8 bits"),
        ({"exact": True}, "add --lm-head-bits 8"),
        ({"banks": "backbone"}, "--banks backbone has one bank alone"),
    ],
)
def test_a_head_that_no_token_could_use_is_refused(tmp_path, changes, words):
    with pytest.raises(RiverError, match=words):
        build_one(tmp_path, river_head_bits=4, **changes)
    assert not (tmp_path / "engine").exists()


def test_a_vocabulary_too_small_is_refused():
    assert frequent_tokens(49152) == 8192
    with pytest.raises(RiverError, match="needs a vocabulary of 96 tokens, and this one has 95"):
        frequent_tokens(95)


def test_inspect_tells_of_it(made, capsys):
    assert main(["inspect", str(made.directory)]) == 0
    assert "rare tokens in 4 bits" in capsys.readouterr().out
