"""The weights beside a package: a .safetensors file, laid out first, then filled in any order."""

import json
import struct
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from builders.aotinductor.program import Planned

DTYPES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.uint8: "U8",
}


class WeightsWriter:
    """Leaving the context checks that nothing is missing."""

    def __init__(self, planned: dict[str, Planned], file: Path) -> None:
        self.planned = planned
        self.missing = set(planned)
        self._offsets: dict[str, int] = {}
        header, end = {}, 0
        for name, buffer in planned.items():
            self._offsets[name], end = end, end + buffer.num_bytes
            header[name] = {
                "dtype": DTYPES[buffer.dtype],
                "shape": list(buffer.shape),
                "data_offsets": [self._offsets[name], end],
            }
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self._file = file.open("wb")
        self._file.write(struct.pack("<Q", len(text)) + text)
        self._start = self._file.tell()

    def write_planned(self, tensors: dict[str, Tensor]) -> None:
        """Write those of the tensors that the program has."""
        for name in self.missing & tensors.keys():
            value, planned = tensors[name].contiguous(), self.planned[name]
            assert (tuple(value.shape), value.dtype) == (planned.shape, planned.dtype), (
                f"{name}: {value.dtype}{list(value.shape)} for {planned}"
            )
            self._file.seek(self._start + self._offsets[name])
            self._file.write(value.view(-1).view(torch.uint8).numpy().data)
            self.missing.remove(name)

    def __enter__(self) -> "WeightsWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        assert kind is not None or not self.missing, f"never written: {sorted(self.missing)[:5]}"
