"""What stands in the way of an engine of a GPU is said before anything is read."""

import dataclasses

import pytest
import torch

from river_trt.backends.base import SessionOptions
from river_trt.backends.torch import gpu, opening
from river_trt.cli.main import main
from river_trt.errors import EngineError, RiverError
from river_trt.manifest import BackendInfo, FileInfo, PrecisionInfo


@pytest.fixture
def manifest(make_manifest):
    files = {name: FileInfo(10**9, "0" * 64) for name in ("program.json", "weights.safetensors")}
    return make_manifest(
        files=files,
        engine_file="program.json",
        backend=BackendInfo("torch", "2.11", "cuda", kernels_abi=opening.ABI_VERSION),
        precision=PrecisionInfo("bfloat16", 16, "bfloat16", "bfloat16"),
    )


@pytest.mark.parametrize(
    ("cuda", "available", "said"),
    [
        (None, False, "is built without CUDA; install a torch with it"),
        ("13.0", False, r"sees none on this machine \(does nvidia-smi\?\)"),
        ("13.0", True, "there is no GPU 5: torch sees 2, numbered from 0"),
    ],
)
def test_a_gpu_that_is_not_there(manifest, monkeypatch, cuda, available, said):
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(gpu.torch.cuda, "device_count", lambda: 2)
    with pytest.raises(EngineError, match=said):
        opening.find_device(manifest, 5)


def test_a_torch_that_is_too_old(manifest, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.10.1")
    with pytest.raises(EngineError, match=r"needs torch 2\.11 or later, but 2\.10\.1 is installed"):
        opening.find_device(manifest, 0)


def test_operators_of_another_version(manifest):
    other = dataclasses.replace(manifest.backend, kernels_abi=opening.ABI_VERSION + 1)
    with pytest.raises(EngineError, match="version 2 of the torch operators"):
        opening.find_device(dataclasses.replace(manifest, backend=other), 0)


def test_too_little_memory_is_said_before_anything_is_loaded(manifest, monkeypatch, tmp_path):
    device = torch.device("cuda", 0)
    monkeypatch.setattr(opening, "find_device", lambda manifest, number: device)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**9, 80 * 10**9))
    with pytest.raises(RiverError, match=r"GB of the GPU's memory .* and 1\.0 GB are free"):
        opening.open_session(tmp_path, manifest, SessionOptions(8, 64))


def test_kernels_that_are_not_built(manifest, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(opening, "find_device", lambda manifest, number: torch.device("cuda", 0))
    monkeypatch.setattr(opening, "check_memory", lambda *given: None)
    with pytest.raises(
        RiverError, match="run `river-trt plugin build --part torch` .once; it needs"
    ):
        opening.open_session(tmp_path, manifest, SessionOptions(8, 64))


def test_the_command_that_builds_the_kernels_names_what_it_lacks(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CUDACXX", "/nowhere/nvcc")
    assert main(["plugin", "build", "--part", "torch"]) == 2
    assert "no nvcc on this machine" in capsys.readouterr().err
