"""A linear of the dialect in standard operators, for one bank."""

import numpy as np

from builders.graph.program import Operation
from builders.tensorrt.scope import TypedScope


def emit_backbone(scope: TypedScope, linear: Operation) -> None:
    """x -- MatMul [K, N] -- (Add bias) -- y; the head's weight stays [N, K], as the embedding is"""
    x, _, weight, *_ = linear.inputs
    (y,) = linear.outputs
    n, k = scope.program.weight_shapes[weight]
    if weight in ("embedding", "lm_head"):
        scope.weight(weight, scope.dtype, (n, k))
        transposed = scope.emit("Transpose", [weight], f"{weight}/transposed", perm=[1, 0])
    else:
        transposed = scope.weight(f"{weight}_transposed", scope.dtype, (k, n))
    _product(scope, linear, x, transposed, y)


def emit_river(scope: TypedScope, linear: Operation) -> None:
    """x -- (Mul pre_scale) -- (Pad) --+-- MatMul DequantizeLinear(INT4) --(+)-- (Add bias) -- y
                                       |                                    |
                                       +-- sum of each group -- MatMul offsets   (asymmetric only)

    TensorRT's DequantizeLinear takes INT4 about zero only; the offsets carry the zero points.
    """
    x, _, weight, qweight, *_ = linear.inputs
    (y,) = linear.outputs
    shapes = scope.program.weight_shapes
    n, k = shapes[weight]
    _, groups, half = shapes[qweight]
    group_size = 2 * half
    module = weight.removesuffix(".weight")
    if optional(linear, 6):
        x = scope.emit(
            "Mul", [x, scope.weight(f"{module}.pre_scale", scope.dtype, (k,))], f"{y}/scaled"
        )
    padding = groups * group_size - k
    if padding:
        pads = scope.constant(f"{y}/pads", np.array([0, 0, 0, 0, 0, padding]))
        x = scope.emit("Pad", [x, pads], f"{y}/padded")
    values = scope.add(
        "DequantizeLinear",
        [
            scope.int4(f"{module}.int4", (groups * group_size, n)),
            scope.weight(f"{module}.scales_transposed", scope.dtype, (groups, n)),
        ],
        [f"{y}/weight"],
        axis=0,
        block_size=group_size,
    )
    if not optional(linear, 5):
        _product(scope, linear, x, values, y)
        return
    product = scope.emit("MatMul", [x, values], f"{y}/codes")
    shape = scope.constant(f"{y}/groups", np.array([0, 0, groups, group_size]))
    last = scope.constant(f"{y}/last_axis", np.array([-1]))
    grouped = scope.emit("Reshape", [x, shape], f"{y}/grouped")
    sums = scope.emit("ReduceSum", [grouped, last], f"{y}/sums", keepdims=0)
    offsets = scope.weight(f"{module}.offsets", scope.dtype, (groups, n))
    correction = scope.emit("MatMul", [sums, offsets], f"{y}/zeros")
    bias = optional(linear, 7)
    if bias:
        product = scope.emit("Add", [product, scope.weight(bias, scope.dtype, (n,))], f"{y}/biased")
    scope.emit("Add", [product, correction], y, name=linear.name)


def optional(linear: Operation, index: int) -> str:
    return linear.inputs[index] if index < len(linear.inputs) else ""


def _product(scope: TypedScope, linear: Operation, x: str, weight: str, y: str) -> None:
    bias = optional(linear, 7)
    if not bias:
        scope.emit("MatMul", [x, weight], y, name=linear.name)
        return
    product = scope.emit("MatMul", [x, weight], f"{y}/product")
    n = scope.program.weight_shapes[bias]
    scope.emit("Add", [product, scope.weight(bias, scope.dtype, n)], y, name=linear.name)
