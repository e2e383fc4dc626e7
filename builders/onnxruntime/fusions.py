"""Plain operators to the fused kernels of ONNX Runtime. Fewer kernels a layer, same result."""

from dataclasses import replace

from builders.graph.fusions import pack_qkv, replaced, static_head_norms
from builders.graph.program import MICROSOFT, Operation, Program, consumers


def fuse(program: Program) -> Program:
    """All fusions, over the whole program."""
    program = pack_qkv(program)
    operations = fuse_norms(_fuse_silu(program.operations))
    return static_head_norms(replace(program, operations=operations))


def _fuse_silu(operations: tuple[Operation, ...]) -> tuple[Operation, ...]:
    """x -- Sigmoid -- Mul(x, .)   becomes   x -- QuickGelu(alpha=1)"""
    readers = consumers(operations)
    fused: dict[int, Operation | None] = {}
    for sigmoid in operations:
        if sigmoid.op_type != "Sigmoid":
            continue
        (x,), (gated,) = sigmoid.inputs, sigmoid.outputs
        mul = readers[gated][0]
        if len(readers[gated]) == 1 and mul.op_type == "Mul" and x in mul.inputs:
            fused[id(sigmoid)] = None
            fused[id(mul)] = Operation(
                "QuickGelu", (x,), mul.outputs, {"alpha": 1.0}, MICROSOFT, mul.name
            )
    return replaced(operations, fused)


def fuse_norms(operations: tuple[Operation, ...]) -> tuple[Operation, ...]:
    """a, b -- Add -- RMSNormalization   becomes   SkipSimplifiedLayerNormalization

    The sum stays an output: the residual stream and the gate read it. A norm of something that is
    no sum becomes SimplifiedLayerNormalization.
    """
    producers = {op.outputs[0]: op for op in operations}
    fused: dict[int, Operation | None] = {}
    for norm in operations:
        if norm.op_type != "RMSNormalization":
            continue
        x, weight = norm.inputs
        epsilon = {"epsilon": norm.attributes["epsilon"]}
        add = producers.get(x)
        if add is not None and add.op_type == "Add" and id(add) not in fused:
            fused[id(add)] = Operation(
                "SkipSimplifiedLayerNormalization",
                (*add.inputs, weight),
                (norm.outputs[0], "", "", x),
                epsilon,
                MICROSOFT,
                norm.name,
            )
            fused[id(norm)] = None
        else:
            fused[id(norm)] = Operation(
                "SimplifiedLayerNormalization",
                (x, weight),
                norm.outputs,
                epsilon | {"axis": -1, "stash_type": 1},
                name=norm.name,
            )
    return replaced(operations, fused)
