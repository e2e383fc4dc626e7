import errno
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from river_trt import EngineError, RiverError
from river_trt.engine_dir import (
    hash_files,
    read_directions,
    read_engine_dir,
    write_engine_dir,
    write_manifest,
)
from river_trt.manifest import FileInfo, PolicyInfo
from tests.river_trt.hub_cache import in_hub_cache


def listing(directory):
    return sorted(path.name for path in directory.iterdir())


def build(out, content=b"graph", force=False):
    with write_engine_dir(out, force) as directory:
        (directory / "manifest.json").write_text("{}")
        (directory / "model.onnx").write_bytes(content)


def test_build_appears_whole(tmp_path):
    out = tmp_path / "new" / "engine"
    with write_engine_dir(out) as directory:
        (directory / "model.onnx").write_bytes(b"x")
        assert not out.exists()
        assert directory.parent == out.parent  # same file system: the rename is atomic
    assert listing(out) == ["model.onnx"]
    assert listing(out.parent) == ["engine"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_interrupted_build_leaves_nothing_and_rerun_works(tmp_path, error):
    out = tmp_path / "new" / "engine"
    with pytest.raises(error), write_engine_dir(out) as directory:
        (directory / "model.onnx").write_bytes(b"x")
        raise error
    assert listing(tmp_path) == []
    build(out)
    assert listing(out) == ["manifest.json", "model.onnx"]


def test_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    with pytest.raises(RiverError, match="disk is full"), write_engine_dir(tmp_path / "e"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert listing(tmp_path) == []


def test_other_os_errors_of_the_build_pass_unchanged(tmp_path):
    with pytest.raises(FileNotFoundError), write_engine_dir(tmp_path / "e"):
        (tmp_path / "nothing").read_bytes()


def test_parent_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RiverError, match="cannot write"), write_engine_dir(tmp_path / "file" / "e"):
        pass
    assert listing(tmp_path) == ["file"]


def test_existing_output_needs_force_and_stays_otherwise(tmp_path):
    build(tmp_path / "e", b"old")
    with pytest.raises(RiverError, match="--force"):
        build(tmp_path / "e", b"new")
    assert (tmp_path / "e" / "model.onnx").read_bytes() == b"old"
    build(tmp_path / "e", b"new", force=True)
    assert (tmp_path / "e" / "model.onnx").read_bytes() == b"new"
    assert listing(tmp_path) == ["e"]


def test_force_refuses_a_directory_that_is_no_engine(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").write_text("years of work")
    with pytest.raises(RiverError, match="not a river engine"):
        build(home, force=True)
    (tmp_path / "file").write_text("x")
    with pytest.raises(RiverError, match="not a river engine"):
        build(tmp_path / "file", force=True)
    assert (home / "thesis.txt").exists() and listing(tmp_path) == ["file", "home"]


def test_failed_forced_build_keeps_the_old_engine(tmp_path, monkeypatch):
    build(tmp_path / "e", b"old")
    with pytest.raises(RuntimeError), write_engine_dir(tmp_path / "e", force=True):
        raise RuntimeError
    rename = Path.rename

    def failing(self, target):
        if "-build-" in self.name:
            raise OSError(errno.EIO, "broken")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="broken"):
        build(tmp_path / "e", b"new", force=True)
    assert (tmp_path / "e" / "model.onnx").read_bytes() == b"old"
    assert listing(tmp_path) == ["e"]


def test_force_through_a_symbolic_link_replaces_the_engine_it_means(tmp_path):
    build(tmp_path / "real", b"old")
    (tmp_path / "link").symlink_to("real")
    build(tmp_path / "link", b"new", force=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "model.onnx").read_bytes() == b"new"


CHILD = """
import sys, time
from pathlib import Path
from river_trt.engine_dir import write_engine_dir
with write_engine_dir(Path(sys.argv[1])) as directory:
    (directory / "model.onnx").write_bytes(b"x")
    print("ready", flush=True)
    time.sleep(60)
"""


def start_build(out):
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(out)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "ready\n"
    return child


def stop(child, number):
    child.send_signal(number)
    child.wait(timeout=30)
    child.stdout.close()


def test_terminated_build_leaves_nothing(tmp_path):
    child = start_build(tmp_path / "e")
    stop(child, signal.SIGTERM)
    assert child.returncode == 128 + signal.SIGTERM
    assert listing(tmp_path) == []


def test_killed_build_is_swept_by_the_next_one_but_a_running_one_is_not(tmp_path):
    running = start_build(tmp_path / "e")
    try:
        killed = start_build(tmp_path / "e")
        stop(killed, signal.SIGKILL)
        assert len(listing(tmp_path)) == 2
        build(tmp_path / "e")
        left = listing(tmp_path)
        assert len(left) == 2 and "e" in left
        assert (tmp_path / left[0] / "model.onnx").exists()
    finally:
        stop(running, signal.SIGKILL)


def test_intact_engine_is_read(engine_directory):
    manifest = read_engine_dir(engine_directory)
    assert set(manifest.files) == {"model.onnx", "model.data", "tokenizer.json"}
    (engine_directory / "notes.txt").write_text("mine")
    assert read_engine_dir(engine_directory) == manifest


def test_changed_byte(engine_directory):
    data = bytearray((engine_directory / "model.data").read_bytes())
    data[500] ^= 1
    (engine_directory / "model.data").write_bytes(data)
    with pytest.raises(EngineError, match=r"model\.data is damaged"):
        read_engine_dir(engine_directory)
    read_engine_dir(engine_directory, verify=False)


def test_missing_and_cut_files_are_seen_without_hashing(engine_directory):
    (engine_directory / "model.data").write_bytes(bytes(999))
    with pytest.raises(EngineError, match="999 bytes instead of 1000"):
        read_engine_dir(engine_directory, verify=False)
    (engine_directory / "model.data").unlink()
    with pytest.raises(EngineError, match=r"model\.data is missing"):
        read_engine_dir(engine_directory, verify=False)


def test_directory_that_is_no_engine(tmp_path):
    with pytest.raises(EngineError, match="not a directory"):
        read_engine_dir(tmp_path / "nothing")
    with pytest.raises(EngineError, match=r"no manifest\.json"):
        read_engine_dir(tmp_path)
    (tmp_path / "manifest.json").write_bytes(b"\xff\xfe")
    with pytest.raises(EngineError, match="UTF-8"):
        read_engine_dir(tmp_path)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../secret", "link", "", "."])
def test_path_that_leaves_the_directory(engine_directory, name):
    secret = engine_directory.parent / "secret"
    secret.write_bytes(b"secret")
    (engine_directory / "link").symlink_to(secret)
    data = json.loads((engine_directory / "manifest.json").read_text())
    real = hash_files(engine_directory)["link"]  # the right hash does not help
    data["files"][name] = {"size": real.size, "sha256": real.sha256}
    (engine_directory / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(EngineError, match="leaves the engine directory"):
        read_engine_dir(engine_directory)


@pytest.mark.parametrize("inside", ["", "cpu/int8"])
def test_engine_in_the_hubs_cache_is_links_to_its_blobs(engine_directory, tmp_path, inside):
    manifest = read_engine_dir(engine_directory)
    snapshot = in_hub_cache(engine_directory, tmp_path / "cache", inside)
    assert read_engine_dir(snapshot) == manifest
    (tmp_path / "short").symlink_to(snapshot)
    assert read_engine_dir(tmp_path / "short") == manifest


def test_links_to_other_blobs_than_the_repositorys_are_refused(engine_directory, tmp_path):
    other = tmp_path / "cache" / "models--else--engine" / "blobs"
    other.mkdir(parents=True)
    snapshot = in_hub_cache(engine_directory, tmp_path / "cache")
    (snapshot / "model.data").resolve().rename(other / "model.data")
    (snapshot / "model.data").unlink()
    (snapshot / "model.data").symlink_to(other / "model.data")
    with pytest.raises(EngineError, match="leaves the engine directory"):
        read_engine_dir(snapshot)


def test_directions_are_read_and_their_size_checked(tmp_path, make_manifest):
    values = np.arange(32, dtype="<f4").reshape(4, 8)
    values.tofile(tmp_path / "directions.bin")
    (tmp_path / "model.onnx").write_bytes(b"")
    policy = PolicyInfo("direction", (0.5,) * 4, (), "directions.bin")
    manifest = make_manifest(policy=policy, files=hash_files(tmp_path))
    write_manifest(tmp_path, manifest)
    assert np.array_equal(read_directions(tmp_path, read_engine_dir(tmp_path)), values)
    values[:2].tofile(tmp_path / "directions.bin")
    with pytest.raises(EngineError, match=r"\[4, 8\] float32"):
        read_directions(tmp_path, manifest)
    assert read_directions(tmp_path, make_manifest(files={"model.onnx": FileInfo(0, "")})) is None
