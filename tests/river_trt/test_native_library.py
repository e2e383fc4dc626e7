"""Compiling the native CPU kernels on first need, and what a user is told where that fails."""

import ctypes
import errno
import os
import shutil
import stat
import tempfile

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


@needs_compiler
def test_compiles_once_and_leaves_nothing_else(monkeypatch, tmp_path):
    library = module.native_library()
    left = {path.name for path in library.parent.iterdir()}
    assert left == {library.name, f"{library.name}.sha256", ".lock"}
    loaded = ctypes.CDLL(str(library))
    loaded.river_cpu_kernels.restype = ctypes.c_char_p
    assert loaded.river_cpu_kernels() in (b"portable", b"avx2", b"avx512 vnni", b"avx512 amx")
    written = library.stat().st_mtime_ns
    assert module.native_library() == library
    assert library.stat().st_mtime_ns == written


@needs_compiler
def test_compiling_is_heard_and_finding_is_not(quick):
    said = []
    quick(lambda *words: said.append(words))
    stage = "compiling the native CPU kernels, once"
    assert said == [(stage, 0, 2), (stage, 1, 2), (stage, 2, 2)]
    quick(lambda *words: pytest.fail("it was there"))


@needs_compiler
def test_the_library_of_a_platform_wheel_comes_first(quick, monkeypatch, tmp_path):
    monkeypatch.setattr("river_trt.compiled_library.PREBUILT", tmp_path / "prebuilt")
    (tmp_path / "prebuilt").mkdir()
    shutil.move(quick(), tmp_path / "prebuilt")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert ctypes.CDLL(str(quick())).one() == 1
    monkeypatch.setattr("river_trt.compiled_library.FLAGS", ("-O1",))  # another build's
    with pytest.raises(RiverError, match="cannot be stored"):
        quick()


@needs_compiler
def test_a_library_that_is_there_needs_no_compiler(monkeypatch):
    library = module.native_library()
    monkeypatch.setenv("PATH", "")
    assert module.native_library() == library


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
    assert [path.name for path in (tmp_path / "river-trt").iterdir()] == [".lock"]


def test_engine_of_another_abi_is_refused():
    check_abi(module.ABI_VERSION)
    for other in (None, module.ABI_VERSION + 1):
        with pytest.raises(EngineError, match="native kernels"):
            check_abi(other)


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """A library of one line in place of the kernels; returns what compiles it where it must be."""
    sources = tmp_path / "sources"
    (sources / "cpu").mkdir(parents=True)
    (sources / "cpu" / "one.cc").write_text(
        'extern "C" __attribute__((visibility("default"))) int one() { return 1; }'
    )
    monkeypatch.setattr("river_trt.plugin.sources.source_directory", lambda: sources)

    return module.native_library


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@needs_compiler
def test_nobody_else_can_write_whatever_the_umask_is(quick):
    before = os.umask(0)
    try:
        library = quick()
    finally:
        os.umask(before)
    assert mode(library.parent) == 0o700
    for path in library.parent.iterdir():
        assert not mode(path) & 0o022, path
    before = os.umask(0o777)
    try:
        library.unlink()
        assert ctypes.CDLL(str(quick())).one() == 1
    finally:
        os.umask(before)


def empty(library):
    library.write_bytes(b"")


def half(library):
    os.truncate(library, library.stat().st_size // 2)


def other_bytes(library):
    library.write_bytes(library.read_bytes() + b"\0")


def of_everybody(library):
    library.chmod(0o777)


def a_link(library):
    elsewhere = library.with_name("elsewhere")
    library.rename(elsewhere)
    library.symlink_to(elsewhere)


def without_a_record(library):
    library.with_name(f"{library.name}.sha256").unlink()


def another_users(library):
    if os.geteuid() != 0:
        pytest.skip("only root may give a file away")
    os.chown(library, 12345, 12345)


DAMAGES = [empty, half, other_bytes, of_everybody, a_link, without_a_record, another_users]


@needs_compiler
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_library_that_is_not_what_was_compiled_is_compiled_again(quick, damage):
    library = quick()
    before, inode = library.read_bytes(), library.stat().st_ino
    damage(library)
    found = quick()
    assert found == library and found.stat().st_ino != inode and not found.is_symlink()
    assert found.read_bytes() == before and mode(found) == 0o755
    assert found.stat().st_uid == os.geteuid()


@needs_compiler
def test_folder_that_a_wide_umask_made_is_closed_and_another_users_is_refused(quick, tmp_path):
    folder = tmp_path / "river-trt"
    folder.mkdir()
    folder.chmod(0o777)
    assert quick().parent == folder and mode(folder) == 0o700
    if os.geteuid() == 0:
        os.chown(folder, 12345, 12345)
        with pytest.raises(RiverError, match="another user's.*XDG_CACHE_HOME"):
            quick()
        os.chown(folder, 0, 0)
    shutil.rmtree(folder)
    folder.symlink_to(tmp_path / "sources")
    with pytest.raises(RiverError, match="is no folder"):
        quick()


@needs_compiler
def test_what_a_killed_compile_left_is_removed(quick, tmp_path):
    folder = tmp_path / "river-trt"
    (folder / "tmpabcdef").mkdir(parents=True)
    (folder / "tmpabcdef" / "one.cc").write_text("half")
    quick()
    assert not (folder / "tmpabcdef").exists()


@needs_compiler
def test_full_disk_is_named_and_not_the_compiler(quick, monkeypatch, tmp_path):
    def full(*args, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "TemporaryDirectory", full)
        with pytest.raises(RiverError, match="the disk is full, so the native CPU kernels"):
            quick()
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho 'fatal error: x: No space left on device' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(RiverError, match="the disk is full") as error:
        quick()
    assert "set CXX" not in str(error.value)


def test_cache_that_cannot_be_written(quick, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(RiverError, match="cannot be stored in .*set XDG_CACHE_HOME"):
        quick()
