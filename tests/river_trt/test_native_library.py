"""Compiling the native CPU kernels on first need, and what a user is told where that fails."""

import ctypes
import shutil

import pytest

from river_trt import native_library as module
from river_trt.backends.onnxruntime import check_abi
from river_trt.cli.main import main
from river_trt.errors import EngineError, RiverError

needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler: g++")


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """Each test looks for a compiler anew, and compiles into a directory of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    module.native_library.cache_clear()
    yield
    module.native_library.cache_clear()


@needs_compiler
def test_compiles_once_and_leaves_nothing_else(monkeypatch, tmp_path):
    library = module.native_library()
    assert [path.name for path in library.parent.iterdir()] == [library.name]
    loaded = ctypes.CDLL(str(library))
    loaded.river_cpu_kernels.restype = ctypes.c_char_p
    assert loaded.river_cpu_kernels() in (b"portable", b"avx2", b"avx512 vnni")
    written = library.stat().st_mtime_ns
    module.native_library.cache_clear()
    assert module.native_library() == library
    assert library.stat().st_mtime_ns == written


def test_no_compiler_names_both_remedies(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RiverError, match=r"C\+\+ compiler.*apt-get install g\+\+.*--kernels onnx"):
        module.native_library()


def test_no_compiler_stops_a_build_before_anything_is_written(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler")
    from tests.builders.tiny_llama import save_tiny_llama

    save_tiny_llama(tmp_path / "model", head_dim=16)
    out = tmp_path / "engine"
    command = ["build", "--model", str(tmp_path / "model"), "--out", str(out)]
    assert main([*command, "--kernels", "native"]) == 2
    error = capsys.readouterr().err
    assert "no-such-compiler" in error and "Traceback" not in error
    assert not out.exists()


@needs_compiler
def test_a_source_that_does_not_compile_leaves_no_library(monkeypatch, tmp_path):
    sources = tmp_path / "sources"
    (sources / "cpu").mkdir(parents=True)
    (sources / "cpu" / "broken.cc").write_text("int main( {")
    monkeypatch.setattr("river_trt.plugin.sources.source_directory", lambda: sources)
    with pytest.raises(RiverError, match="cannot compile the native CPU kernels.*error"):
        module.native_library()
    assert not list((tmp_path / "river-trt").iterdir())


def test_engine_of_another_abi_is_refused():
    check_abi(module.ABI_VERSION)
    for other in (None, module.ABI_VERSION + 1):
        with pytest.raises(EngineError, match="native kernels"):
            check_abi(other)
