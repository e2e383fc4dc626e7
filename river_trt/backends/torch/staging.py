"""Small arrays on their way to the device and back: one copy for all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

ALIGNMENT = 16
DTYPES = {
    np.dtype(np.int64): torch.int64,
    np.dtype(np.int32): torch.int32,
    np.dtype(np.float64): torch.float64,
    np.dtype(np.float32): torch.float32,
}


@dataclass(frozen=True, slots=True)
class Field:
    """One array: its type and shape."""

    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


class Staging:
    """Named arrays side by side, on the host (`host`, numpy) and on the device (`device`).

    On a GPU the host's side is page-locked, so that a copy needs no other one before it.
    """

    def __init__(self, fields: Mapping[str, Field], device: torch.device) -> None:
        starts, end = {}, 0
        for name, field in fields.items():
            starts[name] = end
            end += -(-field.num_bytes // ALIGNMENT) * ALIGNMENT
        size = max(end, 1)
        self._host = torch.zeros(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
        on_gpu = device.type == "cuda"
        self._device = torch.zeros(size, dtype=torch.uint8, device=device) if on_gpu else self._host
        self.host: dict[str, np.ndarray] = {}
        self.device: dict[str, torch.Tensor] = {}
        for name, field in fields.items():
            part = slice(starts[name], starts[name] + field.num_bytes)
            self.host[name] = self._host.numpy()[part].view(field.dtype).reshape(field.shape)
            values = self._device[part].view(DTYPES[field.dtype])
            self.device[name] = values.view(field.shape)

    def send(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Write arrays, each [n, ...] into the first n rows of its field; copy all to the GPU."""
        for name, array in arrays.items():
            self.host[name][: len(array)] = array
        if self._device is not self._host:
            self._device.copy_(self._host, non_blocking=True)

    def fetch(self, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Copy all to the host, wait, and return the arrays; they hold until the next one."""
        if self._device is not self._host:
            self._host.copy_(self._device, non_blocking=True)
            torch.cuda.current_stream().synchronize()
        return {name: self.host[name] for name in names or self.host}
