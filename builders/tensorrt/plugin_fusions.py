"""Traced operations around a linear that the RiverLinear plugin does itself.

norm -- Linear                                becomes   Linear(norm)
Linear -- Add residual                        becomes   Linear(residual)
Linear -- Split -- Sigmoid, Mul -- Mul        becomes   Linear(silu_mul)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from builders.graph.linear import input_of, is_linear
from builders.graph.program import Operation

Readers = dict[str, list[Operation]]


@dataclass(frozen=True, slots=True)
class FusedLinear:
    """A linear and what is fused into it."""

    linear: Operation
    x: str
    output: str
    norm: Operation | None = None
    residual: str | None = None
    silu_mul: bool = False


def fuse_linears(
    operations: Sequence[Operation], readers: Readers
) -> list[Operation | FusedLinear]:
    """The operations of a region in order, linears with what they absorb."""
    norms = {op.outputs[0]: op for op in operations if op.op_type == "RMSNormalization"}
    absorbed: set[int] = set()
    fused: dict[int, FusedLinear] = {}
    for operation in operations:
        if not is_linear(operation):
            continue
        x, (y,) = input_of(operation, "x"), operation.outputs
        call = FusedLinear(operation, x, y)
        norm = norms.get(x)
        if norm is not None and all(is_linear(reader) for reader in readers[x]):
            call = replace(call, x=norm.inputs[0], norm=norm)
            absorbed.add(id(norm))
        after = _residual(y, readers) or _silu_mul(y, readers)
        if after is not None:
            absorbed |= {id(op) for op in after}
            call = replace(call, output=after[-1].outputs[0])
            if len(after) == 1:
                (residual,) = (t for t in after[0].inputs if t != y)
                call = replace(call, residual=residual)
            else:
                call = replace(call, silu_mul=True)
        fused[id(operation)] = call
    return [fused.get(id(op), op) for op in operations if id(op) not in absorbed]


def _residual(y: str, readers: Readers) -> list[Operation] | None:
    add = _only_reader(y, "Add", readers)
    return [add] if add is not None and add.inputs[0] != add.inputs[1] else None


def _silu_mul(y: str, readers: Readers) -> list[Operation] | None:
    split = _only_reader(y, "Split", readers)
    if split is None or len(split.outputs) != 2:
        return None
    gate, up = split.outputs
    sigmoid = next((op for op in readers[gate] if op.op_type == "Sigmoid"), None)
    if sigmoid is None:
        return None
    silu = _only_reader(sigmoid.outputs[0], "Mul", readers)
    if silu is None or set(silu.inputs) != {gate, sigmoid.outputs[0]}:
        return None
    product = _only_reader(silu.outputs[0], "Mul", readers)
    if product is None or set(product.inputs) != {silu.outputs[0], up}:
        return None
    return [split, sigmoid, silu, product]


def _only_reader(tensor: str, op_type: str, readers: Readers) -> Operation | None:
    found = readers.get(tensor, [])
    return found[0] if len(found) == 1 and found[0].op_type == op_type else None
