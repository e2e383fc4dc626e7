"""A graph under construction in one floating-point type."""

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
from onnx import TensorProto, helper

from builders.graph.program import Operation, Program
from builders.graph.scope import Scope
from builders.layouts.weights_file import WeightsLayout

# What activations, backbone and KV cache are stored in, by the name that recipes use.
DTYPES: dict[str, np.dtype] = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
}


class TypedScope(Scope):
    """A Scope whose copies of traced operations compute in `dtype`; the trace is in float32."""

    def __init__(self, layout: WeightsLayout, program: Program, dtype: np.dtype) -> None:
        super().__init__(layout)
        self.program = program
        self.dtype = dtype
        self.onnx_type = int(helper.np_dtype_to_tensor_dtype(dtype))

    def branch(self) -> "TypedScope":
        return TypedScope(self.layout, self.program, self.dtype)

    def emit(self, op_type: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Add a node of one output and return that output."""
        return self.add(op_type, list(inputs), [output], **attributes)

    def typed(self, name: str, value: float | np.ndarray) -> str:
        """A small constant in the graph's type."""
        return self.constant(name, np.asarray(value).astype(self.dtype))

    def int4(self, name: str, shape: tuple[int, int]) -> str:
        """A 4-bit weight; it is written as uint8 of half as many columns (weights.pack_int4)."""
        rows, columns = shape
        assert columns % 2 == 0, f"{name}: {columns} columns do not fill whole bytes"
        self.weight(name, np.uint8, (rows, columns // 2))
        tensor = self.initializers[name]
        tensor.data_type = TensorProto.INT4
        tensor.dims[:] = shape
        return name

    def plain(self, operation: Operation, names: dict[str, str] | None = None) -> None:
        """A traced operation over the renamed tensors, with the constants and weights it reads."""
        for tensor in operation.inputs:
            self.read(tensor)
        renamed = operation.renamed(names or {}, "")
        if renamed.op_type == "RMSNormalization":
            self._rms_norm(renamed)
        else:
            self.copy(renamed)

    def read(self, tensor: str) -> None:
        """Bring a constant or a weight into this scope; other tensors are left alone."""
        if tensor in self.program.constants:
            value = self.program.constants[tensor]
            self.constant(tensor, value.astype(self.dtype) if value.dtype.kind == "f" else value)
        elif tensor in self.program.weight_shapes:
            self.weight(tensor, self.dtype, self.program.weight_shapes[tensor])

    def cast(self, tensor: str, output: str, onnx_type: int) -> str:
        return self.emit("Cast", [tensor], output, to=onnx_type)

    def widen(self, tensor: str, output: str) -> str:
        """The tensor in float32."""
        if self.onnx_type == TensorProto.FLOAT:
            return tensor
        return self.cast(tensor, output, int(TensorProto.FLOAT))

    def _rms_norm(self, norm: Operation) -> None:
        """x -- (Cast) -- x / sqrt(mean(x x) + eps), in float32 -- (Cast) -- Mul weight

        Spelled out: parsers before TensorRT 10.15 do not know RMSNormalization.
        """
        x, weight = norm.inputs
        (y,) = norm.outputs
        wide = self.widen(x, f"{y}/wide")
        axis = self.constant(f"{y}/axis", np.array([-1]))
        epsilon = self.constant(f"{y}/epsilon", np.array(norm.attributes["epsilon"], np.float32))
        square = self.emit("Mul", [wide, wide], f"{y}/square")
        mean = self.emit("ReduceMean", [square, axis], f"{y}/mean", keepdims=1)
        root = self.emit("Sqrt", [self.emit("Add", [mean, epsilon], f"{y}/sum")], f"{y}/root")
        unit = self.emit("Div", [wide, root], f"{y}/unit")
        if self.onnx_type != TensorProto.FLOAT:
            unit = self.cast(unit, f"{y}/narrow", self.onnx_type)
        self.emit("Mul", [unit, weight], y, name=norm.name)
