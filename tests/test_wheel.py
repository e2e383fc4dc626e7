"""What a wheel installs, what an index would show of it, and that it runs where nothing else is."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from email import message_from_bytes
from email.message import Message
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from builders.recipes import known_recipes
from river_trt.native_library import native_library
from tests.builders.tiny_engines import build_pair

ROOT = Path(__file__).parents[1]
READ_A_RECIPE = """
import builders.recipes, river_trt.plugin.sources
recipe = builders.recipes.load_recipe("a100", {})
print(builders.recipes.__file__, *sorted(builders.recipes.known_recipes().values()), sep="\\n")
print(recipe.target, river_trt.plugin.sources.source_directory(), sep="\\n")
"""
COMPILERS = ("c++", "g++", "clang++", "cc", "gcc", "clang")


def build(folder: Path, **environment: str) -> Path:
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling, which builds the wheel, is not installed (extra `test`)")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*pip, "--wheel-dir", folder, ROOT],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def unzipped(wheel) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(wheel.parent / "unzipped")
    return wheel.parent / "unzipped"


def test_nothing_lies_beside_the_two_packages(unzipped):
    names = {path.name for path in unzipped.iterdir() if not path.name.endswith(".dist-info")}
    assert names == {"builders", "river_trt"}


def test_an_installed_wheel_reads_its_own_recipes_and_sources(unzipped, tmp_path):
    """In another directory, so that nothing of the checkout can answer."""
    environment = os.environ | {"PYTHONPATH": str(unzipped)}
    command = [sys.executable, "-c", READ_A_RECIPE]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    module, *files, target, sources = done.stdout.splitlines()
    assert Path(module) == unzipped / "builders" / "recipes.py"
    assert {Path(file).parent for file in files} == {unzipped / "builders" / "_recipes"}
    assert {Path(file).stem for file in files} == set(known_recipes())
    assert target == "a100"
    assert Path(sources) == unzipped / "river_trt" / "_plugin_sources"


def test_a_checkout_reads_the_folder_engines():
    """An editable install reads the same: its packages lie in the checkout."""
    assert {file.parent for file in known_recipes().values()} == {ROOT / "engines"}


def test_an_index_would_take_wheel_and_source_archive(wheel, tmp_path):
    def run(*command: str | Path) -> None:
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr

    run("hatchling", "build", "-t", "sdist", "-d", tmp_path)
    (archive,) = tmp_path.glob("*.tar.gz")
    run("twine", "check", "--strict", wheel, archive)
    run("check_wheel_contents", wheel)


def test_the_readme_of_an_index_links_to_nothing_that_only_the_repository_has(wheel):
    text = metadata(wheel).get_payload()
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert all(re.match(r"https://|#", link) for link in links), links
    assert "`docs/exit-policy.md`" in text and "docs/exit-policy.md`)" not in text
    assert "measurements (`docs/measurements.md`)" in text


@pytest.fixture(scope="module")
def engines(tmp_path_factory) -> dict[str, Path]:
    """An engine of ONNX Runtime's kernels and one of ours."""
    folder = tmp_path_factory.mktemp("engines")
    return {
        kernels: build_pair(folder / kernels, with_tokenizer=True, kernels=kernels).directory
        for kernels in ("onnxruntime", "native")
    }


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(archive.read(name))


def closure(requirements: Iterable[str], extras: Iterable[str] = ()) -> set[str]:
    """The distributions that are named, those that they name, and so on."""
    found = set()
    for text in requirements:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": e}) for e in [*extras, ""]):
            further = distribution(requirement.name).requires or []
            found |= {canonicalize_name(requirement.name), *closure(further, requirement.extras)}
    return found


class Machine:
    """A virtual environment with a wheel and what it declares; no compiler, no torch."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.bin, self.cache = folder / "venv" / "bin", folder / "cache"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
        (site,) = folder.glob("venv/lib/python*/site-packages")
        for name in closure(metadata(wheel).get_all("Requires-Dist", [])):
            installed = distribution(name)
            for top in {file.parts[0] for file in installed.files or []} - {"..", "__pycache__"}:
                (site / top).symlink_to(installed.locate_file(top))
        pip = [sys.executable, "-m", "pip", "--python", self.bin / "python", "install", "--quiet"]
        subprocess.run([*pip, "--no-deps", "--no-index", wheel], check=True)
        assert not any(shutil.which(name, path=str(self.bin)) for name in COMPILERS)

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": str(self.bin), "XDG_CACHE_HOME": str(self.cache), "LANG": "C.UTF-8"}
        return subprocess.run(
            [self.bin / "river-trt", *arguments],
            env=environment,
            cwd=self.bin,
            capture_output=True,
            text=True,
        )

    def keep_kernels(self) -> None:
        """As an image keeps them that was made with a compiler."""
        folder = self.cache / "river-trt"
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        library = native_library()
        for name in (library.name, f"{library.name}.sha256"):
            shutil.copy(library.with_name(name), folder)


@pytest.fixture(scope="module")
def machine(wheel, tmp_path_factory) -> Machine:
    return Machine(tmp_path_factory.mktemp("machine"), wheel)


def generate(engine: Path) -> tuple[str | Path, ...]:
    return ("run", "--engine", engine, "--prompt", "w1 w2", "--max-new-tokens", "4", "--stats")


def test_a_wheel_runs_an_engine_without_torch_or_compiler(machine, engines):
    python = [machine.bin / "python", "-c", "import torch"]
    assert b"No module named 'torch'" in subprocess.run(python, capture_output=True).stderr
    done = machine.run(*generate(engines["onnxruntime"]))
    assert done.returncode == 0, done.stderr
    assert "4 tokens (length)" in done.stdout and done.stderr == ""


def test_native_kernels_run_where_they_were_compiled_before(machine, engines):
    refused = machine.run(*generate(engines["native"]))
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "need a C++ compiler and none was found" in refused.stderr
    machine.keep_kernels()
    done = machine.run(*generate(engines["native"]))
    assert done.returncode == 0, done.stderr
    assert "4 tokens (length)" in done.stdout and done.stderr == ""


def test_building_names_the_wheel_that_was_installed(machine, wheel):
    done = machine.run("build", "--model", "demo", "--out", "engine")
    assert done.returncode == 2
    assert done.stderr.endswith(f'pip install "river-trt[build] @ {wheel.as_uri()}"\n')


def test_a_platform_wheel_brings_the_kernels_compiled(engines, tmp_path):
    (tmp_path / "wheel").mkdir()
    wheel = build(tmp_path / "wheel", RIVER_TRT_PREBUILT="1")
    assert re.fullmatch(r"river_trt-[\d.]+-py3-none-linux_\w+\.whl", wheel.name)
    machine = Machine(tmp_path, wheel)
    done = machine.run(*generate(engines["native"]))
    assert done.returncode == 0, done.stderr
    assert "4 tokens (length)" in done.stdout and done.stderr == ""
    assert not list(machine.cache.rglob("*.so"))
