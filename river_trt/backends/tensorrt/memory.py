"""Where everything of a session lies in device memory. Plain arithmetic: no GPU is needed."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from river_trt.backends.tensorrt.plan import EngineSpec, StepShape, TensorSpec
from river_trt.spec import ModelShape

ALIGNMENT = 256  # of what TensorRT is given


@dataclass(frozen=True, slots=True)
class Block:
    """Tensors side by side in one allocation, so that one copy moves them all.

    A tensor's place is fixed and holds its largest shape, so addresses never change.
    """

    offsets: dict[str, int]
    num_bytes: int

    @classmethod
    def of(cls, tensors: Iterable[TensorSpec], steps: Iterable[StepShape]) -> "Block":
        """Room for the tensors in the largest of the steps."""
        steps = list(steps)
        offsets: dict[str, int] = {}
        end = 0
        for tensor in tensors:
            offsets[tensor.name] = end
            end += align(max(tensor.num_bytes(step) for step in steps))
        return cls(offsets, end)

    def view(self, memory: np.ndarray, tensor: TensorSpec, step: StepShape) -> np.ndarray:
        """The tensor of a step in `memory` uint8 [num_bytes]."""
        start = self.offsets[tensor.name]
        data = memory[start : start + tensor.num_bytes(step)]
        return data.view(tensor.dtype).reshape(tensor.resolve(step))


@dataclass(frozen=True, slots=True)
class CachePlan:
    """The KV cache as one allocation: [2 L][rows, num_kv_heads, slots, head_dim]."""

    rows: int
    num_kv_heads: int
    slots: int
    head_dim: int
    itemsize: int
    num_layers: int

    @classmethod
    def of(cls, engine: EngineSpec, shape: ModelShape, rows: int, slots: int) -> "CachePlan":
        itemsize = engine.tensors["k_cache.0"].dtype.itemsize
        heads, dim = shape.num_kv_heads, shape.head_dim
        return cls(rows, heads, slots, dim, itemsize, shape.num_layers)

    @property
    def head_bytes(self) -> int:
        """One head of one row."""
        return self.slots * self.slot_bytes

    @property
    def slot_bytes(self) -> int:
        return self.head_dim * self.itemsize

    @property
    def row_bytes(self) -> int:
        return self.num_kv_heads * self.head_bytes

    @property
    def tensor_bytes(self) -> int:
        return align(self.rows * self.row_bytes)

    @property
    def num_bytes(self) -> int:
        return 2 * self.num_layers * self.tensor_bytes

    def offset(self, tensor: int, row: int) -> int:
        """Of a row of the tensor-th cache (k of layer 0, v of layer 0, k of layer 1, ...)."""
        return tensor * self.tensor_bytes + row * self.row_bytes


def align(size: int) -> int:
    """Bytes, rounded up to where the next tensor may begin."""
    return -(-size // ALIGNMENT) * ALIGNMENT
