"""The build of the native libraries: search, cache, failures.

A CMake project of one C++ file stands in for plugins/, so no case takes more than a second or two;
nvcc is a script that tells a version.
"""

import json
import os
import signal
import stat
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from river_trt.cli.main import main
from river_trt.errors import MissingDependencyError, RiverError
from river_trt.plugin import build as build_module
from river_trt.plugin.build import LibraryOptions, build_library, built_library, find_built
from river_trt.plugin.cache import cache_directory, read_libraries
from river_trt.plugin.headers import find_tensorrt_headers
from river_trt.plugin.parts import PARTS
from river_trt.plugin.sources import source_directory, source_files
from river_trt.plugin.toolkit import find_toolkit

CMAKE = """\
cmake_minimum_required(VERSION 3.25)
project(stand_in LANGUAGES CXX)
add_library(river_trt_plugin SHARED tensorrt/one.cpp)
"""
ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A cache, a toolkit and headers of the test's own."""
    for name in ("CUDA_HOME", "CUDA_PATH", "TENSORRT_ROOT", "RIVER_TRT_PLUGIN", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CUDACXX", str(write_nvcc(tmp_path / "nvcc", "13.0.88")))
    return tmp_path


def write_nvcc(path: Path, version: str) -> Path:
    path.write_text(f"#!/bin/sh\necho 'release 13.0, V{version}'\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def write_headers(folder: Path, major: int = 10) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "NvInferRuntime.h").touch()
    lines = [f"#define TRT_{part}_ENTERPRISE {n}" for part, n in (("MAJOR", major), ("MINOR", 14))]
    (folder / "NvInferVersion.h").write_text("\n".join([*lines, "#define TRT_PATCH_ENTERPRISE 1"]))
    return folder


@pytest.fixture
def project(home, monkeypatch):
    """A stand-in for plugins/."""
    folder = home / "plugins"
    (folder / "tensorrt").mkdir(parents=True)
    (folder / "CMakeLists.txt").write_text(CMAKE)
    (folder / "tensorrt" / "one.cpp").write_text('extern "C" int one() { return 1; }\n')
    monkeypatch.setattr(build_module, "source_directory", lambda: folder)
    return folder


@pytest.fixture
def options(home):
    return LibraryOptions(tensorrt_root=write_headers(home / "trt" / "include").parent, jobs=1)


def no_progress(stage: str, done: int, total: int) -> None:
    pass


def test_the_cache_is_keyed_by_sources_headers_toolkit_and_architectures(home, project, options):
    first, cached = build_library(options, no_progress)
    assert not cached and first.path.read_bytes().startswith(b"\x7fELF")
    again, cached = build_library(options, no_progress)
    assert cached and again == first
    paths = {first.path}

    def assert_rebuilt(changed: LibraryOptions) -> None:
        library, cached = build_library(changed, no_progress)
        assert not cached and library.path not in paths
        paths.add(library.path)

    with (project / "tensorrt" / "one.cpp").open("a") as file:
        file.write("// changed\n")
    assert_rebuilt(options)
    assert_rebuilt(LibraryOptions(tensorrt_root=options.tensorrt_root, architectures=("80",)))
    write_nvcc(home / "nvcc", "13.1.5")
    assert_rebuilt(options)
    write_headers(home / "trt" / "include", 11)
    assert_rebuilt(options)
    forced = LibraryOptions(tensorrt_root=options.tensorrt_root, force=True)
    library, cached = build_library(forced, no_progress)
    assert not cached and library.path in paths


def test_what_was_built_is_found_by_major_version(home, project, options):
    part = PARTS["tensorrt"]
    assert find_built(part, "10.14.1") is None
    with pytest.raises(RiverError, match="run `river-trt plugin build --part tensorrt`"):
        built_library("tensorrt", "10.3.0")
    library, _ = build_library(options, no_progress)
    assert built_library("tensorrt", "10.3.0") == library.path
    with pytest.raises(RiverError, match="no tensorrt plugin for version 11"):
        built_library("tensorrt", "11.0.0")
    with (project / "tensorrt" / "one.cpp").open("a") as file:
        file.write("// a newer river-trt\n")
    assert find_built(part, "10.14.1") is None


def test_an_override_needs_no_build(home, monkeypatch):
    path = home / "mine.so"
    monkeypatch.setenv("RIVER_TRT_PLUGIN", str(path))
    with pytest.raises(RiverError, match=f"RIVER_TRT_PLUGIN={path} is no file"):
        built_library("tensorrt", "10.0")
    path.touch()
    assert built_library("tensorrt", "10.0") == path


def test_a_damaged_library_is_no_library(project, options):
    library, _ = build_library(options, no_progress)
    library.path.write_bytes(library.path.read_bytes()[:-1])
    assert read_libraries() == []
    rebuilt, cached = build_library(options, no_progress)
    assert not cached and read_libraries() == [rebuilt]
    (library.path.parent / "info.json").write_text("{")
    assert read_libraries() == []


def test_sources_that_do_not_compile_name_the_error_and_the_log(project, options):
    (project / "tensorrt" / "one.cpp").write_text("int one() { return unknown; }\n")
    with pytest.raises(RiverError, match="does not compile with nvcc 13.0.88: .*unknown") as caught:
        build_library(options, no_progress)
    log = Path(str(caught.value).rsplit("the whole log is ", 1)[1])
    assert "unknown" in log.read_text()
    assert read_libraries() == []


def test_an_interrupted_build_leaves_nothing_and_no_process(project, options, tmp_path):
    """SIGINT while the compiler runs: exit code 130, no library, no compiler left behind."""
    marker = tmp_path / "compiling"
    slow = tmp_path / "slow-g++"
    slow.write_text(
        f'#!/bin/sh\ncase "$*" in *one.cpp*) echo $$ > {marker}; sleep 60;; esac\nexec g++ "$@"\n'
    )
    slow.chmod(0o755)
    code = (
        "import signal, sys, pathlib; from river_trt.plugin import build;"
        "signal.signal(signal.SIGINT, signal.default_int_handler);"  # a background shell ignores it
        f"build.source_directory = lambda: pathlib.Path({str(project)!r});"
        "from river_trt.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    command = ["plugin", "build", "--tensorrt-root", str(options.tensorrt_root), "--jobs", "1"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *command],
        env=os.environ | {"CXX": str(slow), "TMPDIR": str(tmp_path)},
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: marker.exists() and marker.read_text().strip() != "")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    compiler = int(marker.read_text())
    wait_for(lambda: not Path(f"/proc/{compiler}").exists() or is_zombie(compiler))
    assert not [path for path in cache_directory().rglob("*") if path.is_file()]
    assert not list(tmp_path.glob("river-trt-plugin-*"))


def is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"part": "cuda"}, "unknown part 'cuda'; the plugin's parts are tensorrt, torch"),
        ({"architectures": ("fast",)}, "architecture 'fast': give CMake's names"),
        ({"jobs": 0}, "0 jobs: at least 1 is needed"),
        ({"tensorrt_root": Path("/nowhere")}, "TensorRT root /nowhere holds no include/NvInfer"),
        ({"part": "torch", "tensorrt_root": Path("/x")}, "--tensorrt-root is for the part"),
    ],
)
def test_bad_options_name_the_value_and_the_rule(change, message):
    with pytest.raises(RiverError, match=message):
        build_library(LibraryOptions(**change), no_progress)


def test_without_nvcc_it_says_so_in_one_sentence(capsys, home, monkeypatch):
    monkeypatch.setenv("CUDACXX", "/nowhere/nvcc")
    assert main(["plugin", "build"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: no nvcc on this machine: the plugin is compiled with")
    assert captured.err.count("\n") == 1
    assert main(["plugin", "info", "--json"]) == 0
    assert "no nvcc on this machine" in json.loads(capsys.readouterr().out)["toolkit"]


def test_an_old_or_broken_nvcc_is_named(home):
    write_nvcc(home / "nvcc", "11.8.89")
    with pytest.raises(MissingDependencyError, match=r"nvcc 11.8.89 \(.*\) is older than 12.4"):
        find_toolkit()
    (home / "nvcc").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(MissingDependencyError, match="--version` does not tell a version"):
        find_toolkit()


def test_headers_come_from_the_root_the_environment_or_a_package(home, monkeypatch):
    folder = write_headers(home / "a" / "include")
    assert find_tensorrt_headers(home / "a").root == folder
    assert find_tensorrt_headers(folder).version == "10.14.1"
    monkeypatch.setenv("TENSORRT_ROOT", str(write_headers(home / "b")))
    assert find_tensorrt_headers().root == home / "b"
    with pytest.raises(RiverError, match="TensorRT 9.14.1 in .*: the plugin is for TensorRT 10"):
        find_tensorrt_headers(write_headers(home / "c", 9))


def test_the_sources_are_the_repositorys_and_the_wheel_ships_them_all():
    sources = source_directory()
    assert sources == ROOT / "plugins"
    shipped = {path.strip('"') for path in wheel_paths()} - {"engines"}  # recipes: test_wheel.py
    needed = {folder for part in PARTS.values() for folder in part.folders} | {"CMakeLists.txt"}
    cpu = {"plugins/cpu", "plugins/torch_cpu"}  # compiled on first need
    assert {f"plugins/{name}" for name in needed} | cpu == shipped
    assert sources / "kernels" / "launch.h" in source_files(sources, ("kernels",))


def wheel_paths() -> list[str]:
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return list(options["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"])


def test_build_prints_what_was_built_and_copies_it(capsys, home, project, options):
    command = ["plugin", "build", "--tensorrt-root", str(options.tensorrt_root), "--jobs", "1"]
    assert main([*command, "--out", str(home / "copy.so"), "--json"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert captured.err == "compiling\n"
    assert result["cached"] is False and result["copy"] == str(home / "copy.so")
    assert (home / "copy.so").read_bytes() == Path(result["library"]).read_bytes()
    assert main(command) == 0
    out = capsys.readouterr().out
    for text in ("found in the cache", "TensorRT 10.x", "nvcc 13.0.88, headers 10.14.1", "90-real"):
        assert text in out
    assert main([*command, "--out", "/nowhere/copy.so"]) == 2
    assert "it has no folder /nowhere" in capsys.readouterr().err
