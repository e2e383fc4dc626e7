"""INT4 tensors in a weights file whose layout knows whole bytes."""

import numpy as np
from onnx import TensorProto

from builders.tensorrt.scope import TypedScope


def int4_weight(scope: TypedScope, name: str, shape: tuple[int, int]) -> str:
    """Add an INT4 weight; it is written as uint8 with half as many columns (weights.pack_int4)."""
    rows, columns = shape
    assert columns % 2 == 0, f"{name}: {columns} columns do not fill whole bytes"
    scope.weight(name, np.uint8, (rows, columns // 2))
    tensor = scope.initializers[name]
    tensor.data_type = TensorProto.INT4
    tensor.dims[:] = shape
    return name
