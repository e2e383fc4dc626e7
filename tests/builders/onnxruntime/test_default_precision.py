"""What a build gives where nothing is asked for, and with --exact."""

import numpy as np
import pytest

import river_trt
from builders.build import BuildOptions, build
from builders.onnxruntime import options
from builders.onnxruntime.options import CpuPrecision, OnnxRuntimeOptions
from river_trt.cli.main import main
from river_trt.engine_files import read_manifest
from river_trt.errors import RiverError
from river_trt.spec import ExitPolicy
from tests.builders.tiny_engines import TINY
from tests.builders.tiny_llama import save_tiny_llama

FAST = CpuPrecision(8, "float16", 8)
IDS = np.random.default_rng(0).integers(3, 112, (2, 24))


@pytest.fixture(autouse=True)
def as_users_have_it(monkeypatch):
    monkeypatch.setattr(options, "DEFAULT", FAST)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("default") / "model"
    save_tiny_llama(folder, **TINY)
    return folder


def log_softmax(logits):
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def precision_of(directory):
    found = read_manifest(directory).precision
    return found.backbone, found.kv_cache, found.lm_head_bits


def test_a_build_is_fast_and_exact_is_the_model_itself(model, tmp_path):
    for name, asked in (("fast", []), ("exact", ["--exact"])):
        argv = ["build", "--model", str(model), "--out", str(tmp_path / name), "--no-calibrate"]
        assert main([*argv, "--quantiser", "rtn", "--group-size", "32", *asked]) == 0
    assert precision_of(tmp_path / "fast") == ("int8", "float16", 8)
    assert precision_of(tmp_path / "exact") == ("float32", "float32", 32)
    full = ExitPolicy.full_depth(TINY["num_hidden_layers"])
    fast, exact = (
        river_trt.load(tmp_path / name).forward(IDS, full)[0] for name in ("fast", "exact")
    )
    p, q = (log_softmax(logits) for logits in (exact, fast))
    assert 0 < np.mean(np.sum(np.exp(p) * (p - q), axis=-1)) < 0.02  # nats, of a random model


def test_an_eight_bit_head_keeps_sixteen_bits_of_its_input(model, tmp_path):
    """Eight of them, as the river's inputs have, would be off by fifty times as much."""
    full, found = ExitPolicy.full_depth(TINY["num_hidden_layers"]), {}
    for activation in ("int8", "float32"):
        engine = BuildOptions(
            str(model),
            tmp_path / activation,
            quantiser="rtn",
            group_size=32,
            backbone_bits=32,
            lm_head_bits=8,
            river_activation=activation,
            calibrate=False,
        )
        build(engine)
        found[activation] = river_trt.load(tmp_path / activation).forward(IDS, full)[0]
    error = np.abs(found["int8"] - found["float32"]).max()
    assert error < 2e-4 * np.abs(found["float32"]).max()


def test_onnxruntimes_own_kernels_stay_exact(model, tmp_path):
    build(BuildOptions(str(model), tmp_path / "engine", kernels="onnxruntime", calibrate=False))
    assert precision_of(tmp_path / "engine") == ("float32", "float32", 32)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, FAST),
        ({"exact": True}, CpuPrecision(32, "float32", None)),
        ({"backbone_bits": 16}, CpuPrecision(16, "float16", 8)),
        ({"kv_cache": "float32", "lm_head_bits": 32}, CpuPrecision(8, "float32", 32)),
    ],
)
def test_each_precision_can_be_asked_for(asked, expected):
    assert OnnxRuntimeOptions(river_activation="int8", **asked).precision(True) == expected


@pytest.mark.parametrize(
    "asked", [{"backbone_bits": 8}, {"kv_cache": "float16"}, {"lm_head_bits": 4}]
)
def test_exact_and_something_else_is_refused(asked):
    (name,) = asked
    with pytest.raises(RiverError, match=f"--exact stores everything as it is, and {name}"):
        OnnxRuntimeOptions(river_activation="int8", exact=True, **asked)
