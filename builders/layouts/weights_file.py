"""The external data file of an engine: laid out first, then filled layer by layer."""

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import ml_dtypes
import numpy as np
from onnx import TensorProto, helper

ALIGNMENT = 4096  # a page: tensors are memory-mapped


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int

    @property
    def num_bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


class WeightsLayout:
    """Where each weight lies in the file. Asking twice for a name gives the same place."""

    def __init__(self, file_name: str) -> None:
        self.file_name = file_name
        self.planned: dict[str, PlannedTensor] = {}
        self.num_bytes = 0

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each tensor."""
        return {name: planned.num_bytes for name, planned in self.planned.items()}

    def tensor(self, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> TensorProto:
        """The ONNX tensor that points into the file."""
        if name not in self.planned:
            offset = -(-self.num_bytes // ALIGNMENT) * ALIGNMENT
            self.planned[name] = PlannedTensor(dtype, shape, offset)
            self.num_bytes = offset + self.planned[name].num_bytes
        planned = self.planned[name]
        assert (planned.dtype, planned.shape) == (dtype, shape), name
        proto = TensorProto(
            name=name,
            dims=shape,
            data_type=_onnx_type(dtype),
            data_location=TensorProto.EXTERNAL,
        )
        place = {
            "location": self.file_name,
            "offset": str(planned.offset),
            "length": str(planned.num_bytes),
        }
        for key, value in place.items():
            proto.external_data.add(key=key, value=value)
        return proto


class WeightsWriter:
    """Fills the file in any order. Leaving the context checks that nothing is missing."""

    def __init__(self, layout: WeightsLayout, directory: Path) -> None:
        self.layout = layout
        self.missing = set(layout.planned)
        self._file = (directory / layout.file_name).open("wb")

    def write(self, name: str, value: np.ndarray) -> None:
        planned = self.layout.planned[name]
        assert (value.dtype, value.shape) == (planned.dtype, planned.shape), (
            f"{name}: {value.dtype}{value.shape} for {planned.dtype}{planned.shape}"
        )
        self._file.seek(planned.offset)
        self._file.write(np.ascontiguousarray(value).view(np.uint8).data)
        self.missing.remove(name)

    def write_planned(self, tensors: dict[str, np.ndarray]) -> None:
        """Write those of the tensors that the graph reads."""
        for name in self.missing & tensors.keys():
            self.write(name, tensors[name])

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


def _onnx_type(dtype: np.dtype) -> int:
    if dtype == ml_dtypes.bfloat16:
        return TensorProto.BFLOAT16
    return helper.np_dtype_to_tensor_dtype(dtype)
