"""A compiled package, end to end: equal to the reference and to ONNX Runtime, and refused in one
sentence where it cannot run. One package serves all tests: compiling takes most of the time."""

import dataclasses
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import river_trt
from builders.build import BuildOptions, build
from river_trt.backends.aotinductor import checks
from river_trt.backends.base import SessionOptions
from river_trt.cli.main import main
from river_trt.engine_dir import hash_files, write_manifest
from river_trt.errors import EngineError, RiverError
from river_trt.origin import this_build
from river_trt.spec import ExitPolicy
from scripts.research.eager import load_eager
from tests.builders.tiny_engines import Pair, build_pair, forced_exit, policy
from tests.builders.tiny_llama import save_tiny_llama, save_word_tokenizer

LAYERS = 4
IDS = np.random.default_rng(0).integers(3, 112, (3, 20))


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Pair:
    directory = tmp_path_factory.mktemp("package")
    return build_pair(directory, quantiser="awq", backend="aotinductor", attention_bias=True)


def test_package_equals_the_reference(pair):
    for chosen in (
        *(ExitPolicy.full_depth(LAYERS), forced_exit(LAYERS, 2, (3,)), policy(LAYERS, 0.5)),
        *(policy(LAYERS, -np.inf), forced_exit(LAYERS, LAYERS)),
    ):
        pair.assert_equal(IDS, chosen)
    directions = np.random.default_rng(1).standard_normal((LAYERS, 64)).astype(np.float32)
    for scope in ("token", "sequence", "batch"):
        pair.assert_equal(IDS, policy(LAYERS, 0.1, (), directions), scope)
        pair.assert_equal(IDS, policy(LAYERS, 0.5, (2,)), scope)


@pytest.mark.parametrize("tau", [np.inf, 0.5, -np.inf])
def test_generates_what_the_onnxruntime_engine_generates(pair, tau, tmp_path):
    model = str(pair.directory.parent / "model")
    options = BuildOptions(
        model, tmp_path / "ort", quantiser="awq", group_size=32, river_activation="float32"
    )
    build(options)
    prompts = [IDS[0, :3].tolist(), IDS[1, :17].tolist(), IDS[2, 5:6].tolist()]
    config = river_trt.GenerationConfig(max_new_tokens=20, tau=tau, ignore_eos=True)
    expected = river_trt.load(tmp_path / "ort").generate(prompts, config)
    got = pair.engine.generate(prompts, config)
    for theirs, ours in zip(expected, got, strict=True):
        assert ours.token_ids == theirs.token_ids
        assert list(ours.exit_layers) == list(theirs.exit_layers)


def test_eager_mode_generates_the_same(pair):
    config = river_trt.GenerationConfig(max_new_tokens=10, tau=0.5, ignore_eos=True)
    model = str(pair.directory.parent / "model")
    eager = load_eager(pair.directory, model, SessionOptions(2, 64), compiled=False)
    (ours,), (package,) = (e.generate([[5, 6, 7]], config) for e in (eager, pair.engine))
    assert ours.token_ids == package.token_ids


def test_rows_move_and_read_back(pair):
    """What continuous batching asks of a session."""
    pair.engine.forward(IDS[:2], ExitPolicy.full_depth(LAYERS))
    session = pair.engine.stepper.session
    kept = session.read_row(1, 20)
    assert kept.shape == (LAYERS, 2, 2, 20, 16) and kept.any()
    session.move_row(1, 0, 20)
    np.testing.assert_array_equal(session.read_row(0, 20), kept)


def test_manifest_says_what_it_is_built_for(pair):
    manifest = pair.engine.manifest
    assert manifest.backend.version == torch.__version__
    assert manifest.backend.compute_capability == "x86-64-v3"
    sizes = manifest.bytes_per_layer
    assert 3 < sizes.backbone_layer / sizes.river_layer < 8
    names = zipfile.ZipFile(pair.directory / "model.pt2").namelist()
    assert not [name for name in names if name.endswith((".pkl", ".pt"))], "no pickle anywhere"


@pytest.fixture
def readable(pair, tmp_path) -> Path:
    """The engine with a tokenizer, so that it can read a text."""
    directory = tmp_path / "engine"
    shutil.copytree(pair.directory, directory)
    save_word_tokenizer(directory)
    manifest = pair.engine.manifest
    model = dataclasses.replace(manifest.model, has_tokenizer=True)
    files = hash_files(directory)
    write_manifest(directory, dataclasses.replace(manifest, model=model, files=files))
    return directory


def test_a_text_is_scored_and_what_needs_hidden_states_is_refused(readable, tmp_path, capsys):
    text, report = tmp_path / "a.txt", tmp_path / "report.html"
    text.write_text(" ".join(f"w{n % 100}" for n in range(200)))
    cut = ["--text", str(text), "--pieces", "4", "--piece-tokens", "20", "--skip", "4"]
    before = (readable / "manifest.json").read_bytes()
    assert main(["evaluate", str(readable), *cut, "--json"]) == 0
    assert [r["name"] for r in json.loads(capsys.readouterr().out)][:2] == ["backbone", "all river"]
    draft = ["--text", str(text), "--pieces", "10", "--piece-tokens", "20", "--skip", "4"]
    assert main(["calibrate", str(readable), *draft, "--draft", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stored"] == []
    for argv in (
        ["calibrate", str(readable), *draft, "--target-layers", "2"],
        ["calibrate", str(readable), *draft, "--target-layers", "2", "--policy", "paper"],
        ["evaluate", str(readable), *cut, "--report", str(report)],
    ):
        assert main(argv) == 2
        error = capsys.readouterr().err
        assert "the backend aotinductor do not show the hidden states" in error
        assert "give an onnxruntime engine of the same model, or --model" in error
        assert "--apply FILE" in error and "Traceback" not in error
    assert not report.exists() and (readable / "manifest.json").read_bytes() == before


def edit(**changes: Any) -> Callable[[Path], None]:
    """Change the manifest: keys are section__key."""

    def damage(directory: Path) -> None:
        file = directory / "manifest.json"
        manifest = json.loads(file.read_text())
        for name, value in changes.items():
            section, key = name.split("__")
            manifest[section][key] = value
        file.write_text(json.dumps(manifest))

    return damage


def truncate(name: str) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        content = (directory / name).read_bytes()
        (directory / name).write_bytes(b"\0" * len(content))

    return damage


CUDA = {
    "backend__target": "cuda",
    "backend__compute_capability": "9.0",
    "precision__kv_cache": "bfloat16",
}
REFUSED = {
    "another torch": (edit(backend__version="2.9.1"), "compiled for torch 2.9.1 but"),
    "a GPU that is absent": (edit(**CUDA), "needs a GPU of compute capability 9.0, but torch"),
    "another level of CPU": (
        edit(backend__compute_capability="x86-64-v5"),
        "holds code for x86-64-v5 but this processor has",
    ),
    "other operators": (edit(backend__kernels_abi=99), "version 99 of the torch operators"),
    "an unknown target": (edit(backend__target="tpu"), "target 'tpu' with a float32 cache"),
    "a damaged package": (truncate("model.pt2"), "torch cannot load"),
    "damaged weights": (truncate("weights.safetensors"), "is no safetensors file"),
}


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
@pytest.mark.parametrize("name", REFUSED)
def test_an_engine_that_cannot_run_is_refused_in_one_sentence(name, pair, tmp_path, capfd):
    damage, expected = REFUSED[name]
    shutil.copytree(pair.directory, tmp_path / "engine")
    damage(tmp_path / "engine")
    command = ["run", "--engine", str(tmp_path / "engine"), "--no-verify", "--prompt-ids", "1"]
    assert main(command) == 2
    error = capfd.readouterr().err.strip()
    assert expected in error and "Traceback" not in error and len(error.splitlines()) == 1


def test_another_gpu_is_refused(pair, monkeypatch):
    backend = river_trt.manifest.BackendInfo("aotinductor", "2", "cuda", "9.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(EngineError, match="capability 9.0 but this one has 8.0; rebuild"):
        checks.check_gpu(backend, 0)


BAD_OPTIONS = {
    "no GPU": ({"recipe": "cuda"}, "sees no GPU on this machine"),
    "kernels": ({"kernels": "native"}, "kernels is an option of onnxruntime"),
    "head": ({"lm_head_bits": 16}, "an LM head of 4, 8, 32 bits, not 16"),
}


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_bad_options_leave_nothing_behind(name, tmp_path):
    save_tiny_llama(tmp_path / "model", head_dim=16)
    changes, expected = BAD_OPTIONS[name]
    out = tmp_path / "engine"
    options = BuildOptions(str(tmp_path / "model"), out, backend="aotinductor", **changes)
    with pytest.raises(RiverError, match=expected):
        build(options)
    assert not out.exists()


def test_without_torch_the_engine_says_what_to_install(pair):
    code = (
        "import sys\nsys.modules['torch'] = None\nfrom river_trt.cli.main import main\n"
        f"sys.exit(main(['run', '--engine', {str(pair.directory)!r}, '--prompt-ids', '1']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert (
        f"needs torch, which is not installed: {this_build().install('aotinductor')}" in done.stderr
    )
