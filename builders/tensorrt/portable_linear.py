"""A linear of the dialect in standard operators, for one bank."""

import numpy as np

from builders.graph.linear import Linear
from builders.tensorrt.scope import TypedScope


def emit_backbone(scope: TypedScope, linear: Linear) -> None:
    """x -- MatMul [K, N] -- (Add bias) -- y; the head's weight stays [N, K], as the embedding is"""
    (n, k), weight = linear.shape, linear.weight
    if weight in ("embedding", "lm_head"):
        scope.weight(weight, scope.dtype, (n, k))
        transposed = scope.emit("Transpose", [weight], f"{weight}/transposed", perm=[1, 0])
    else:
        transposed = scope.weight(f"{weight}_transposed", scope.dtype, (k, n))
    _product(scope, linear, linear.x, transposed)


def emit_river(scope: TypedScope, linear: Linear) -> None:
    """x -- (Mul pre_scale) -- (Pad) --+-- MatMul DequantizeLinear(INT4) --(+)-- (Add bias) -- y
                                       |                                    |
                                       +-- sum of each group -- MatMul offsets   (asymmetric only)

    TensorRT's DequantizeLinear takes INT4 about zero only; the offsets carry the zero points.
    """
    x, y, path, (n, k) = linear.x, linear.y, linear.path, linear.shape
    groups, group_size = linear.groups, linear.group_size
    if linear.has_pre_scale:
        factor = scope.weight(f"{path}.pre_scale", scope.dtype, (k,))
        x = scope.emit("Mul", [x, factor], f"{y}/scaled")
    padding = groups * group_size - k
    if padding:
        pads = scope.constant(f"{y}/pads", np.array([0, 0, 0, 0, 0, padding]))
        x = scope.emit("Pad", [x, pads], f"{y}/padded")
    values = scope.add(
        "DequantizeLinear",
        [
            scope.int4(f"{path}.int4", (groups * group_size, n)),
            scope.weight(f"{path}.scales_transposed", scope.dtype, (groups, n)),
        ],
        [f"{y}/weight"],
        axis=0,
        block_size=group_size,
    )
    if not linear.has_zero_points:
        _product(scope, linear, x, values)
        return
    product = scope.emit("MatMul", [x, values], f"{y}/codes")
    shape = scope.constant(f"{y}/groups", np.array([0, 0, groups, group_size]))
    last = scope.constant(f"{y}/last_axis", np.array([-1]))
    grouped = scope.emit("Reshape", [x, shape], f"{y}/grouped")
    sums = scope.emit("ReduceSum", [grouped, last], f"{y}/sums", keepdims=0)
    offsets = scope.weight(f"{path}.offsets", scope.dtype, (groups, n))
    correction = scope.emit("MatMul", [sums, offsets], f"{y}/zeros")
    if linear.has_bias:
        product = scope.emit("Add", [product, _bias(scope, linear)], f"{y}/biased")
    scope.emit("Add", [product, correction], y, name=linear.name)


def _product(scope: TypedScope, linear: Linear, x: str, weight: str) -> None:
    if not linear.has_bias:
        scope.emit("MatMul", [x, weight], linear.y, name=linear.name)
        return
    product = scope.emit("MatMul", [x, weight], f"{linear.y}/product")
    scope.emit("Add", [product, _bias(scope, linear)], linear.y, name=linear.name)


def _bias(scope: TypedScope, linear: Linear) -> str:
    return scope.weight(f"{linear.path}.bias", scope.dtype, linear.shape[:1])
