"""Plain operators to the fused kernels of ONNX Runtime. Fewer kernels a layer, same result."""

from dataclasses import replace

from builders.onnxruntime.program import MICROSOFT, Operation, Program, consumers


def pack_qkv(program: Program) -> Program:
    """That fusion alone."""
    return replace(program, operations=_pack_qkv(program.operations))


def fuse(program: Program) -> Program:
    """All fusions, over the whole program."""
    operations = program.operations
    for fusion in (_pack_qkv, _fuse_silu, fuse_norms):
        operations = fusion(operations)
    return replace(program, operations=operations)


def _pack_qkv(operations: tuple[Operation, ...]) -> tuple[Operation, ...]:
    """qkv -- Split -- q, k, v -- Attention   becomes   qkv -- Attention"""
    producers = {tensor: op for op in operations for tensor in op.outputs}
    fused: dict[int, Operation | None] = {}
    for attention in operations:
        if attention.op_type != "Attention":
            continue
        split = producers[attention.inputs[0]]
        if split.op_type == "Split" and split.outputs == attention.inputs[:3]:
            packed = (split.inputs[0], "", "", *attention.inputs[3:])
            fused[id(split)] = None
            fused[id(attention)] = replace(attention, inputs=packed)
    return _replaced(operations, fused)


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
    return _replaced(operations, fused)


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
    return _replaced(operations, fused)


def _replaced(
    operations: tuple[Operation, ...], fused: dict[int, Operation | None]
) -> tuple[Operation, ...]:
    kept = (fused.get(id(operation), operation) for operation in operations)
    return tuple(operation for operation in kept if operation is not None)
