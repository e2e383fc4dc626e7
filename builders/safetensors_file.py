"""A safetensors file that is written tensor by tensor: a model need not fit in memory."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch

from builders.narrowing import narrow

# Names in a safetensors header.
FORMAT_NAMES = {
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "int32": "I32",
    "uint8": "U8",
}
HEADER_ALIGNMENT = 8


@dataclass(frozen=True, slots=True)
class Parameter:
    """One tensor of the file."""

    dtype: str  # one of FORMAT_NAMES
    shape: tuple[int, ...]


class SafetensorsFile:
    """Lays out all parameters at once; `write` fills one. Close it with every one filled."""

    def __init__(self, path: Path, parameters: Mapping[str, Parameter]) -> None:
        self._parameters = dict(parameters)
        self._missing = set(parameters)
        header: dict[str, object] = {}
        self._offsets: dict[str, int] = {}
        end = 0
        for name, parameter in parameters.items():
            size = num_bytes(parameter)
            header[name] = {
                "dtype": FORMAT_NAMES[parameter.dtype],
                "shape": list(parameter.shape),
                "data_offsets": [end, end + size],
            }
            self._offsets[name] = end
            end += size
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % HEADER_ALIGNMENT)
        self._data_start = 8 + len(text)
        self._file = path.open("wb")
        self._file.write(len(text).to_bytes(8, "little") + text)
        self._file.truncate(self._data_start + end)

    def write(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Floating point tensors are converted to the parameter's type."""
        for name, tensor in tensors.items():
            assert name in self._missing, f"{name} is unknown or written twice"
            parameter = self._parameters[name]
            assert tuple(tensor.shape) == parameter.shape, f"{name}: {tuple(tensor.shape)}"
            dtype = getattr(torch, parameter.dtype)
            assert tensor.is_floating_point() == dtype.is_floating_point, f"{name}: {tensor.dtype}"
            self._file.seek(self._data_start + self._offsets[name])
            stored = narrow(tensor, dtype, name).contiguous()
            self._file.write(stored.view(torch.uint8).numpy().data)
            self._missing.remove(name)

    def __enter__(self) -> "SafetensorsFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()
        assert kind is not None or not self._missing, f"not written: {sorted(self._missing)[0]}"


def num_bytes(parameter: Parameter) -> int:
    itemsize: int = getattr(torch, parameter.dtype).itemsize
    return itemsize * math.prod(parameter.shape)
