"""The weights file of an aotinductor engine: what is written is what is read, on every device."""

import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from builders.aotinductor.program import Planned
from builders.aotinductor.weights_file import WeightsWriter
from river_trt.backends.torch.weights import ALIGNMENT, read_header, read_weights
from river_trt.errors import EngineError

TENSORS = {
    "a.odd": torch.arange(5, dtype=torch.uint8),  # leaves the next one unaligned in the file
    "b": torch.randn(3, 7),
    "c": torch.randn(2, 2, 2).bfloat16(),
    "d.half": torch.randn(9).half(),
}


@pytest.fixture
def file(tmp_path):
    planned = {name: Planned(tuple(t.shape), t.dtype) for name, t in TENSORS.items()}
    with WeightsWriter(planned, tmp_path / "weights.safetensors") as writer:
        for name in reversed(TENSORS):
            writer.write_planned({name: TENSORS[name], "unplanned": TENSORS["b"]})
    return tmp_path / "weights.safetensors"


def test_it_is_a_safetensors_file(file):
    for name, tensor in load_file(file).items():
        assert torch.equal(tensor, TENSORS[name])


def test_tensors_come_back_aligned(file):
    weights = read_weights(file, torch.device("cpu"))
    assert weights.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(weights[name], tensor) and weights[name].dtype == tensor.dtype
        assert weights[name].data_ptr() % ALIGNMENT == 0


def test_another_device_gets_copies(file):
    """meta stands in for a GPU."""
    weights = read_weights(file, torch.device("meta"))
    assert {t.device.type for t in weights.values()} == {"meta"}
    assert [t.shape for t in weights.values()] == [t.shape for t in TENSORS.values()]


def test_a_missing_tensor_is_our_own_bug(tmp_path):
    with (
        pytest.raises(AssertionError, match="never written: \\['b'\\]"),
        WeightsWriter({"b": Planned((1,), torch.float32)}, tmp_path / "weights.safetensors"),
    ):
        pass


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 64, struct.pack("<Q", 1 << 60), struct.pack("<Q", 2) + b"[]"],
    ids=["empty", "zeros", "endless header", "no object"],
)
def test_what_is_no_such_file_is_refused(content, tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(content)
    with pytest.raises(EngineError, match="is no safetensors file of an engine; rebuild"):
        read_header(tmp_path / "weights.safetensors")


def test_a_type_that_no_engine_has_is_refused(tmp_path):
    save_file({"x": torch.zeros(2, dtype=torch.int64)}, tmp_path / "weights.safetensors")
    with pytest.raises(EngineError, match="is no safetensors file of an engine"):
        read_header(tmp_path / "weights.safetensors")


def test_a_shape_that_its_bytes_do_not_fill_is_refused(file):
    content = file.read_bytes()
    file.write_bytes(content.replace(b"[3, 7]", b"[3, 8]"))
    with pytest.raises(EngineError, match="is no safetensors file of an engine"):
        read_weights(file, torch.device("cpu"))


def test_a_file_that_ends_early_is_refused(file):
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(EngineError, match="ends early; rebuild"):
        read_weights(file, torch.device("cpu"))
