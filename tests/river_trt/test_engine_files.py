"""Files that are no files, and files that change while an engine is loaded or after it."""

import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from river_trt import EngineError
from river_trt.engine_dir import hash_files, read_engine_dir, write_manifest
from river_trt.engine_files import EngineFiles, loading
from river_trt.manifest import FileInfo
from river_trt.private_memory import make_private


def replaced(path: Path, data: bytes) -> None:
    """Another file of the same name, as rename puts it there."""
    other = path.with_name("other")
    other.write_bytes(data)
    other.replace(path)


def written_in_place(path: Path, data: bytes) -> None:
    with path.open("r+b") as file:
        file.write(data)


@pytest.mark.parametrize("change", [replaced, written_in_place])
@pytest.mark.parametrize("name", ["model.onnx", "model.data", "tokenizer.json"])
def test_a_file_changed_between_hash_and_use_is_refused(engine_directory, name, change):
    path = engine_directory / name
    size = path.stat().st_size
    with (
        pytest.raises(EngineError, match=f"{name} was changed or replaced"),
        EngineFiles(engine_directory) as files,
    ):
        files.verify()
        change(path, bytes(size))
        files.confirm()


def test_content_put_back_does_not_hide_the_change(engine_directory):
    path = engine_directory / "model.data"
    before, times = path.read_bytes(), path.stat()
    with (
        pytest.raises(EngineError, match=r"model\.data was changed"),
        EngineFiles(engine_directory) as files,
    ):
        files.verify()
        written_in_place(path, b"\x01" * 10)
        written_in_place(path, before)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        files.confirm()


def test_what_is_hashed_is_what_was_opened(engine_directory):
    """A name that leads elsewhere after the file was opened does not change what is hashed."""
    with EngineFiles(engine_directory) as files:
        replaced(engine_directory / "model.data", b"\x01" * 1000)
        files.verify()  # the file that is open is whole
        with pytest.raises(EngineError, match="changed or replaced"):
            files.confirm()


def test_a_writer_waits_until_the_engine_is_loaded(engine_directory):
    order = []

    def write():
        with (engine_directory / "model.data").open("r+b") as file:
            order.append("written")
            file.write(b"\x01")

    thread = threading.Thread(target=write)
    try:
        with loading(engine_directory, verify=True):
            thread.start()
            time.sleep(0.2)
            order.append("loaded")
    finally:
        thread.join()
    assert order == ["loaded", "written"]


def test_private_memory_outlives_its_file(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(bytes(range(256)) * 64)
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    status = path.stat()
    make_private({(status.st_dev, status.st_ino)})
    written_in_place(path, bytes(4096))
    os.truncate(path, 0)
    assert mapped[:] == bytes(range(256)) * 64


CUT = """
import os, sys
import numpy as np
import river_trt
from pathlib import Path
directory = Path(sys.argv[1])
engine = river_trt.load(directory, max_seq_len=16)
ids = np.arange(1, 9)[None]
before = engine.forward(ids)[0]
for file in directory.iterdir():
    if file.name != "manifest.json":
        os.truncate(file, 0)
after = engine.forward(ids)[0]
sys.exit(0 if np.array_equal(before, after) else 1)
"""


@pytest.mark.parametrize("kernels", ["native", "onnxruntime"])
def test_an_engine_whose_files_are_cut_runs_on(tmp_path, kernels):
    from tests.builders.tiny_engines import build_pair

    directory = build_pair(tmp_path, kernels=kernels).directory
    done = subprocess.run([sys.executable, "-c", CUT, str(directory)], capture_output=True)
    assert done.returncode == 0, (done.returncode, done.stderr)  # -SIGBUS once


def make_fifo(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def make_device(path: Path) -> None:
    """A link to a device would leave the directory; this is one."""
    path.unlink(missing_ok=True)
    try:
        os.mknod(path, 0o600 | 0o020000, os.makedev(1, 5))  # as /dev/zero
    except PermissionError:
        pytest.skip("only root may make a device")


def make_directory(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def make_loop(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(path.name)


@pytest.fixture
def alarm():
    """A reader that blocks is ended: the test fails in place of hanging."""
    signal.signal(signal.SIGALRM, lambda number, frame: pytest.fail("it hangs"))
    signal.alarm(20)
    yield
    signal.alarm(0)


@pytest.mark.usefixtures("alarm")
@pytest.mark.parametrize("make", [make_fifo, make_device, make_directory, make_loop])
@pytest.mark.parametrize("name", ["manifest.json", "model.data"])
def test_what_is_no_plain_file(engine_directory, name, make):
    make(engine_directory / name)
    with pytest.raises(EngineError) as error:
        read_engine_dir(engine_directory)
    assert name in str(error.value) and "\n" not in str(error.value)


@pytest.mark.usefixtures("alarm")
def test_sparse_terabytes_are_not_read(engine_directory, make_manifest):
    size = 1 << 40
    os.truncate(engine_directory / "model.data", size)
    with pytest.raises(EngineError, match=r"model\.data is a sparse file"):
        read_engine_dir(engine_directory)
    # With the size that the manifest says, too.
    (engine_directory / "model.data").unlink()
    files = hash_files(engine_directory) | {"model.data": FileInfo(size, "0" * 64)}
    write_manifest(engine_directory, make_manifest(files=files))
    (engine_directory / "model.data").touch()
    os.truncate(engine_directory / "model.data", size)
    with pytest.raises(EngineError, match=r"model\.data is a sparse file"):
        read_engine_dir(engine_directory)
    os.truncate(engine_directory / "manifest.json", size)
    with pytest.raises(EngineError, match=r"manifest\.json is a sparse file"):
        read_engine_dir(engine_directory)


def test_a_sparse_file_of_a_common_size_is_read(engine_directory):
    """Tools that copy leave holes where a file has zeros: that alone is no fault."""
    os.truncate(engine_directory / "model.data", 0)
    os.truncate(engine_directory / "model.data", 1000)
    read_engine_dir(engine_directory)


def test_large_manifest(engine_directory):
    with (engine_directory / "manifest.json").open("ab") as file:
        file.write(b" " * (17 << 20))
    with pytest.raises(EngineError, match=r"manifest\.json has more than"):
        read_engine_dir(engine_directory)


def test_forward_is_the_same_from_private_memory(tmp_path):
    """Weights that are moved keep their place: an engine gives what it gave."""
    from tests.builders.tiny_engines import build_pair

    pair = build_pair(tmp_path)
    ids = np.arange(1, 9)[None]
    with open("/proc/self/maps") as maps:
        assert not any("model.data" in line for line in maps)
    assert np.isfinite(pair.engine.forward(ids)[0]).all()
