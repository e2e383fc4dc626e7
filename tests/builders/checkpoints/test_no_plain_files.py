"""Files of a checkpoint that would block a reader, or never end."""

import os
import signal

import pytest

from builders.source import ModelSource
from river_trt.errors import CheckpointError
from tests.builders.tiny_llama import save_tiny_llama


@pytest.fixture
def alarm():
    """A reader that blocks is ended: the test fails in place of hanging."""
    before = signal.signal(signal.SIGALRM, lambda number, frame: pytest.fail("it hangs"))
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("alarm")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_fifo_is_refused(tmp_path, name):
    save_tiny_llama(tmp_path)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(CheckpointError, match=rf"has (no|neither) {name}"):
        ModelSource.open(str(tmp_path)).shared()


@pytest.mark.usefixtures("alarm")
def test_sparse_terabyte_is_refused(tmp_path):
    save_tiny_llama(tmp_path)
    os.truncate(tmp_path / "config.json", 1 << 40)
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read: is a sparse file"):
        ModelSource.open(str(tmp_path))


def test_brackets_without_an_end(tmp_path):
    save_tiny_llama(tmp_path)
    (tmp_path / "config.json").write_text('{"a":' * 100_000)
    with pytest.raises(CheckpointError, match="nested too deeply"):
        ModelSource.open(str(tmp_path))
