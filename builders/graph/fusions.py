"""Changes to the traced program that are every backend's: fewer operations, same result."""

from dataclasses import replace

import numpy as np

from builders.graph.program import Operation, Program, consumers

SHAPE_OPERATORS = ("Shape", "Squeeze", "Reshape", "Concat")


def pack_qkv(program: Program) -> Program:
    """qkv -- Split -- q, k, v -- Attention   becomes   qkv -- Attention"""
    producers = program.producers()
    fused: dict[int, Operation | None] = {}
    for attention in program.operations:
        if attention.op_type != "Attention":
            continue
        split = producers[attention.inputs[0]]
        if split.op_type == "Split" and split.outputs == attention.inputs[:3]:
            packed = (split.inputs[0], "", "", *attention.inputs[3:])
            fused[id(split)] = None
            fused[id(attention)] = replace(attention, inputs=packed)
    return replace(program, operations=replaced(program.operations, fused))


def pack_head_norms(program: Program) -> Program:
    """qkv -- Split -- q, k, v; q, k -- norm of each head -- Attention   becomes   qkv -- Attention

    whose attributes `q_norm` and `k_norm` are the names of the norms' weights.
    """
    producers = program.producers()
    fused: dict[int, Operation | None] = {}
    for attention in program.operations:
        if attention.op_type != "Attention":
            continue
        joins = [producers[tensor] for tensor in attention.inputs[:2] if tensor in producers]
        if [join.op_type for join in joins] != ["Reshape", "Reshape"]:
            continue
        norms = [producers[join.inputs[0]] for join in joins]
        heads = [producers[norm.inputs[0]] for norm in norms]
        split = producers[heads[0].inputs[0]]
        assert {norm.op_type for norm in norms} == {"RMSNormalization"} and split.op_type == "Split"
        assert split.outputs == (heads[0].inputs[0], heads[1].inputs[0], attention.inputs[2])
        fused |= {id(operation): None for operation in (split, *joins, *norms, *heads)}
        fused[id(attention)] = replace(
            attention,
            inputs=(split.inputs[0], "", "", *attention.inputs[3:]),
            attributes=attention.attributes
            | {"q_norm": norms[0].inputs[1], "k_norm": norms[1].inputs[1]},
        )
    if not fused:
        return program
    return replace(program, operations=_needed(replaced(program.operations, fused)))


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
    needed = _needed(replaced(operations, fused))
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


def replaced(
    operations: tuple[Operation, ...], fused: dict[int, Operation | None]
) -> tuple[Operation, ...]:
    """The operations with some in place of others (by id), or without them (None)."""
    kept = (fused.get(id(operation), operation) for operation in operations)
    return tuple(operation for operation in kept if operation is not None)
