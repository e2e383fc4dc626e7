"""Reading a .safetensors file into memory of the device, each byte once."""

import mmap
import struct
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path

import torch

from river_trt.errors import EngineError
from river_trt.json_text import parse_json
from river_trt.manifest import REBUILD

DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "U8": torch.uint8,
}
ALIGNMENT = 64  # of each tensor in memory; the file has none


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies in the file. Raises ValueError for a size that is not its own."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int  # in the file
    end: int

    def __post_init__(self) -> None:
        if self.num_bytes != self.dtype.itemsize * torch.Size(self.shape).numel():
            raise ValueError(f"{self.num_bytes} bytes for {self.dtype} {self.shape}")

    @property
    def num_bytes(self) -> int:
        return self.end - self.start


def read_header(file: Path) -> dict[str, StoredTensor]:
    """The file's tensors; EngineError where it is no such file."""
    try:
        with file.open("rb") as opened:
            (size,) = struct.unpack("<Q", opened.read(8))
            entries = parse_json(opened.read(size))
            entries.pop("__metadata__", None)
            return {
                name: StoredTensor(
                    DTYPES[entry["dtype"]],
                    tuple(entry["shape"]),
                    *(8 + size + offset for offset in entry["data_offsets"]),
                )
                for name, entry in entries.items()
            }
    except (
        *(OSError, struct.error, ValueError, KeyError, TypeError, AttributeError),
        *(MemoryError, OverflowError, RuntimeError),
    ) as error:
        raise EngineError(f"{file.name} is no safetensors file of an engine; {REBUILD}") from error


def read_weights(file: Path, device: torch.device) -> dict[str, torch.Tensor]:
    """Every tensor of the file, on the device.

    On the CPU they lie in one piece of memory, in large pages where the system has them: a decode
    step reads every weight once, and looking up small pages is then a good part of the time.
    """
    stored = read_header(file)
    weights = {}
    with file.open("rb", buffering=0) as opened:
        if device.type != "cpu":
            for name, tensor in stored.items():
                place = memoryview(bytearray(tensor.num_bytes))
                weights[name] = _read(opened, tensor, place).to(device)
            return weights
        sizes = [-(-tensor.num_bytes // ALIGNMENT) * ALIGNMENT for tensor in stored.values()]
        memory = mmap.mmap(-1, sum(sizes))
        if hasattr(mmap, "MADV_HUGEPAGE"):
            memory.madvise(mmap.MADV_HUGEPAGE)
        start = 0
        for (name, tensor), size in zip(stored.items(), sizes, strict=True):
            place = memoryview(memory)[start : start + tensor.num_bytes]
            weights[name] = _read(opened, tensor, place)
            start += size
    return weights


def _read(file: RawIOBase, tensor: StoredTensor, place: memoryview) -> torch.Tensor:
    file.seek(tensor.start)
    done = 0
    while done < tensor.num_bytes:  # a read stops short at 2 GiB
        count = file.readinto(place[done:])
        if not count:
            raise EngineError(f"the weights file ends early; {REBUILD}")
        done += count
    return torch.frombuffer(place, dtype=tensor.dtype).view(tensor.shape)
