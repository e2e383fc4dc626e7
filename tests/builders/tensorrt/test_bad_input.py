"""What a user gets for a build that TensorRT cannot do: one sentence, code 2, and no directory."""

from importlib import import_module
from pathlib import Path

import pytest

from river_trt.backends.tensorrt import library
from river_trt.cli.main import main
from tests.builders.tiny_llama import save_tiny_llama
from tests.plugins import native

CASES = {
    "a GPU that RTX does not build for": (
        "--backend tensorrt-rtx --target h100",
        "does not build for target h100 (compute capability 9.0), only for 7.5, 8.0",
        "use --backend tensorrt on a machine with that GPU",
    ),
    "a CPU's recipe": (
        "--backend tensorrt-rtx --target cpu",
        "target 'cpu' is not for tensorrt",
        "choose --target a100",
    ),
    "a GPU's recipe": ("--backend onnxruntime --target a100", "is not for onnxruntime", "cpu"),
    "a network of the CPU": (
        "--target cpu --network portable",
        "network is an option of tensorrt and tensorrt-rtx",
        "h100",
    ),
    "a narrow head": (
        "--backend tensorrt-rtx --target a100 --lm-head-bits 8",
        "lm_head_bits 8 is not offered by tensorrt-rtx",
        "float16",
    ),
    "kernels of the CPU": (
        "--backend tensorrt-rtx --target a100 --kernels native",
        "kernels is an option of onnxruntime",
        "tensorrt-rtx",
    ),
    "an odd vocabulary": (
        "--backend tensorrt-rtx --target a100 --network portable --lm-head-bits 4",
        "odd: lm_head has 113 rows, but the portable network takes even numbers",
        "4-bit rows",
    ),
    "sizes that the plugins do not take": (
        "--backend tensorrt-rtx --target a100 --network plugin",
        "odd has hidden_size 36, but the plugins take multiples of 8 only",
        "use --network portable",
    ),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("models")
    save_tiny_llama(directory / "model")
    save_tiny_llama(directory / "odd", hidden_size=36, head_dim=16, vocab_size=113)
    return directory


@pytest.mark.parametrize("case", CASES)
def test_one_sentence_and_nothing_written(models, tmp_path, capsys, case):
    native.skip_without_package("tensorrt-rtx-cu13")
    options, *parts = CASES[case]
    model = models / ("odd" if "odd" in parts[0] else "model")
    out = tmp_path / "engine"
    argv = ["build", "--model", str(model), "--out", str(out), "--quantiser", "rtn"]
    assert main([*argv, *options.split()]) == 2
    error = capsys.readouterr().err
    for part in parts:
        assert part in error
    assert "Traceback" not in error and not out.exists()


@pytest.mark.parametrize(
    ("backend", "line"),
    [
        ("tensorrt", "pip install tensorrt, or run in nvcr.io/nvidia/tensorrt"),
        ("tensorrt-rtx", "pip install tensorrt-rtx-cu13"),
    ],
)
def test_a_missing_library_is_a_pip_or_container_line(
    models, tmp_path, capsys, monkeypatch, backend, line
):
    def missing(name: str):
        if name.startswith("tensorrt"):
            raise ImportError(f"No module named '{name}'", name=name)
        return import_module(name)

    monkeypatch.setattr(library, "import_module", missing)
    argv = ["build", "--model", str(models / "model"), "--out", str(tmp_path / "engine")]
    assert main([*argv, "--target", "a100", "--backend", backend, "--quantiser", "rtn"]) == 2
    error = capsys.readouterr().err
    assert "is not installed" in error and line in error
    assert not list(tmp_path.iterdir())
