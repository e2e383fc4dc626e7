"""The Dockerfile of every backend, read as docker would: `docker build` itself is not to be had."""

import dataclasses
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from river_trt import RiverError
from river_trt.backends import BACKENDS
from river_trt.cli.main import main
from river_trt.engine_dir import read_engine_dir
from river_trt.triton import repository
from river_trt.triton.dockerfile import IMAGES, dockerfile, server_image
from river_trt.triton.repository import ExportOptions, export
from river_trt.triton.settings import ModelSettings

WHEEL = "river_trt-0.1.0-py3-none-any.whl"
VERSIONS = {
    "onnxruntime": ("1.32.0", "cpu"),
    "aotinductor": ("2.13.0+cpu", "cpu"),
    "torch": ("2.11.0+cu130", "cuda"),
    "tensorrt": ("10.14.1.48", "h100"),
    "tensorrt-rtx": ("1.7.1.116", "rtx"),
    "tensorrt-llm": ("1.2.1", "tp1"),
}


def manifest_of(engine_directory, backend: str):
    manifest = read_engine_dir(engine_directory)
    version, target = VERSIONS[backend]
    mode = "plugin" if backend.startswith("tensorrt") else None
    changed = dataclasses.replace(
        manifest.backend, name=backend, version=version, target=target, mode=mode
    )
    return dataclasses.replace(manifest, backend=changed)


@pytest.fixture
def wheel(tmp_path) -> Path:
    path = tmp_path / WHEEL
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("river_trt/__init__.py", "")
    return path


def instructions(text: str) -> list[tuple[str, str]]:
    joined = text.replace("\\\n", " ")
    lines = [line for line in joined.splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(" ", 1)) for line in lines]


def check(text: str, context: Path | None) -> None:
    """What docker and hadolint would say of it."""
    steps = instructions(text)
    assert steps[0][0] == "FROM" and steps[-1][0] == "CMD"
    stages = [
        value.split(" AS ")[-1] for name, value in steps if name == "FROM" and " AS " in value
    ]
    for name, value in steps:
        assert name in {"FROM", "RUN", "COPY", "ENV", "CMD"}
        if name == "FROM":
            assert re.fullmatch(r"nvcr\.io/nvidia/\w+:\d\d\.\d\d-[\w-]+( AS \w+)?", value), value
        if name == "RUN" and "pip install" in value:
            assert "--no-cache-dir" in value
        if name == "RUN" and "apt-get" in value:
            assert "apt-get update" in value and "rm -rf /var/lib/apt/lists" in value
        if name == "COPY" and value.startswith("--from="):
            assert value.split("=", 1)[1].split()[0] in stages
        elif name == "COPY" and context is not None:
            assert (context / value.split()[0]).exists(), value


@pytest.mark.parametrize("backend", IMAGES)
@pytest.mark.parametrize("plugin", [None, "libriver.so"])
def test_every_backend_has_an_image(engine_directory, backend, plugin):
    assert IMAGES.keys() == VERSIONS.keys() == BACKENDS.keys()
    image = server_image(manifest_of(engine_directory, backend))
    text = dockerfile(image, backend, ["one", "two"], WHEEL, plugin)
    check(text, None)
    assert f"/tmp/{WHEEL}" in text and "COPY one /models/one\nCOPY two /models/two\n" in text
    assert "pip install river-trt" not in text  # it is on no index
    shell = subprocess.run(["sh", "-n", "-c", instructions(text)[-1][1]], check=False)
    assert shell.returncode == 0 and "--model-control-mode=explicit" in text
    tensorrt = backend.startswith("tensorrt")
    assert ("RIVER_TRT_PLUGIN" in text) == tensorrt
    assert ("river-trt plugin build" in text) == (tensorrt and plugin is None)
    assert ("trtllm" in text) == (backend == "tensorrt-llm")
    assert ("--gpus all" in text) == (tensorrt or backend == "torch")
    version = VERSIONS[backend][0].split("+")[0]
    if backend in ("aotinductor", "torch", "tensorrt", "tensorrt-rtx"):
        assert f'=={version}"' in text


def package_names(engine_directory) -> set[str]:
    packages = [p for b in IMAGES for p in server_image(manifest_of(engine_directory, b)).packages]
    return {re.split(r"[=<>\[]", package)[0] for package in packages}


def test_every_package_is_on_the_index(engine_directory):
    for name in sorted(package_names(engine_directory)):
        command = [sys.executable, "-m", "pip", "index", "versions", name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if "Network is unreachable" in done.stderr or "Connection" in done.stderr:
            pytest.skip("no network to ask the package index")
        assert done.returncode == 0 and name in done.stdout, done.stderr


@pytest.mark.parametrize("backend", ["onnxruntime", "tensorrt"])
def test_what_the_image_copies_is_there(engine_directory, wheel, tmp_path, backend, monkeypatch):
    manifest = manifest_of(engine_directory, backend)
    library = tmp_path / "libplugin.so"
    library.write_bytes(b"code")
    monkeypatch.setattr(repository, "built_library", lambda part, version: library)
    monkeypatch.setattr(repository, "read_engine_dir", lambda path, verify: manifest)
    settings, out = ModelSettings(str(engine_directory)), tmp_path / "repo"
    for name in ("one", "two"):
        export(ExportOptions(settings, out, name, docker=True, wheel=wheel, gpus=(0, 2)))
    text = (out / "Dockerfile").read_text()
    check(text, out)
    assert "COPY one /models/one" in text and "COPY two /models/two" in text
    assert (out / WHEEL).read_bytes() == wheel.read_bytes()
    plugin = (out / "libplugin.so").exists()
    assert plugin == (backend == "tensorrt") == ("COPY libplugin.so" in text)
    kind = "KIND_GPU gpus: [ 0, 2 ]" if backend == "tensorrt" else "KIND_CPU"
    assert f"count: 1 kind: {kind}" in (out / "one" / "config.pbtxt").read_text()


def test_one_image_serves_one_backend(engine_directory, wheel, tmp_path, monkeypatch):
    settings, out = ModelSettings(str(engine_directory)), tmp_path / "repo"
    export(ExportOptions(settings, out, "one", docker=True, wheel=wheel))
    manifest = manifest_of(engine_directory, "tensorrt")
    monkeypatch.setattr(repository, "read_engine_dir", lambda path, verify: manifest)
    with pytest.raises(RiverError, match="is for engines of onnxruntime, and this one is of tens"):
        export(ExportOptions(settings, out, "two", docker=True, wheel=wheel))
    assert not (out / "two").exists()


def test_a_wheel_of_this_checkout(engine_directory, tmp_path, capsys):
    """The real one, built by pip; it needs hatchling from the index."""
    out = tmp_path / "repo"
    code = main(
        ["triton", "export", "--engine", str(engine_directory), "--out", str(out), "--docker"]
    )
    error = capsys.readouterr().err
    if code and "Connection" in error:
        pytest.skip("no network to fetch hatchling from")
    assert code == 0, error
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert "river_trt/triton/dockerfile.py" in archive.namelist()
    check((out / "Dockerfile").read_text(), out)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--wheel", "nowhere.whl"], "nowhere.whl is no wheel of river-trt"),
        (["--docker", "--engine-files", "reference"], "an image holds its engine"),
        (["--gpus", "-1"], "gpus must be different numbers"),
        (["--gpus", "1", "1"], "gpus must be different numbers"),
    ],
)
def test_bad_options_leave_nothing_behind(engine_directory, tmp_path, capsys, options, message):
    out = tmp_path / "repo"
    arguments = ["triton", "export", "--engine", str(engine_directory), "--out", str(out), *options]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not out.exists() or list(out.iterdir()) == []
