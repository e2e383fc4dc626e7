"""Plain operators to the fused kernels of ONNX Runtime. Fewer kernels a layer, same result."""

from dataclasses import replace

import numpy as np

from builders.onnxruntime.program import MICROSOFT, Operation, Program, consumers

SHAPE_OPERATORS = ("Shape", "Squeeze", "Reshape", "Concat")


def pack_qkv(program: Program) -> Program:
    """That fusion alone."""
    return replace(program, operations=_pack_qkv(program.operations))


def fuse(program: Program) -> Program:
    """All fusions, over the whole program."""
    operations = program.operations
    for fusion in (_pack_qkv, _fuse_silu, fuse_norms):
        operations = fusion(operations)
    return static_head_norms(replace(program, operations=operations))


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


def static_head_norms(program: Program, norm_type: str = "SimplifiedLayerNormalization") -> Program:
    """x -- Reshape(heads) -- norm -- Reshape(joined)   with the shapes as constants

    The tracer computes both shapes from batch and seq: a dozen small kernels a layer.
    """
    operations, constants = program.operations, dict(program.constants)
    producers, readers = program.producers(), consumers(operations)
    fused: dict[int, Operation | None] = {}
    for norm in operations:
        split = producers.get(norm.inputs[0]) if norm.inputs else None
        if norm.op_type != norm_type or split is None:
            continue
        if split.op_type == "Reshape":
            (join,) = readers[norm.outputs[0]]
            assert join.op_type == "Reshape"
            (head_dim,) = program.weight_shapes[norm.inputs[1]]
            heads = f"heads_of_{head_dim}"
            constants |= {heads: np.array([0, 0, -1, head_dim]), "joined": np.array([0, 0, -1])}
            for reshape, shape in ((split, heads), (join, "joined")):
                fused[id(reshape)] = replace(
                    reshape, inputs=(reshape.inputs[0], shape), attributes={}
                )
    needed = _needed(_replaced(operations, fused))
    return replace(program, operations=needed, constants=constants)


def _needed(operations: tuple[Operation, ...]) -> tuple[Operation, ...]:
    """Without what only computed the shapes: reshaping that nothing reads any more."""
    while True:
        read = {tensor for operation in operations for tensor in operation.inputs}
        kept = tuple(
            operation
            for operation in operations
            if operation.op_type not in SHAPE_OPERATORS or read & set(operation.outputs)
        )
        if len(kept) == len(operations):
            return kept
        operations = kept


def _replaced(
    operations: tuple[Operation, ...], fused: dict[int, Operation | None]
) -> tuple[Operation, ...]:
    kept = (fused.get(id(operation), operation) for operation in operations)
    return tuple(operation for operation in kept if operation is not None)
