"""What both modes change in the traced program before they lower it."""

from dataclasses import replace

import numpy as np

from builders.onnx_schemas import DOMAIN
from builders.onnxruntime.program import Operation, Program, consumers

SHAPE_OPERATORS = ("Shape", "Squeeze", "Reshape", "Concat")


def prepare(program: Program, tied: bool) -> Program:
    """The head as a linear of one bank, head norms over constant shapes, one table if tied."""
    program = _head_as_linear(_static_head_norms(program))
    if not tied:
        return program
    operations = tuple(
        op.renamed({"lm_head": "embedding"}, "") if "lm_head" in op.inputs else op
        for op in program.operations
    )
    shapes = {name: s for name, s in program.weight_shapes.items() if name != "lm_head"}
    return replace(program, operations=operations, weight_shapes=shapes)


def _head_as_linear(program: Program) -> Program:
    """x, Transpose(lm_head) -- MatMul   becomes   x -- Linear without a river"""
    producers = program.producers()
    (transpose,) = (op for op in program.operations if op.inputs == ("lm_head",))
    operations = []
    for operation in program.operations:
        if operation.op_type == "MatMul" and producers.get(operation.inputs[1]) is transpose:
            inputs = (operation.inputs[0], "", "lm_head")
            operation = Operation("Linear", inputs, operation.outputs, {}, DOMAIN, "lm_head")
        if operation is not transpose:
            operations.append(operation)
    return replace(program, operations=tuple(operations))


def _static_head_norms(program: Program) -> Program:
    """x -- Reshape(heads) -- norm -- Reshape(joined)   with the shapes as constants

    The tracer computes both shapes from batch and seq: a dozen small kernels a layer.
    """
    producers, readers = program.producers(), consumers(program.operations)
    constants = dict(program.constants)
    changed: dict[int, Operation] = {}
    for norm in program.operations:
        split = producers.get(norm.inputs[0]) if norm.op_type == "RMSNormalization" else None
        if split is None or split.op_type != "Reshape":
            continue
        (join,) = readers[norm.outputs[0]]
        (head_dim,) = program.weight_shapes[norm.inputs[1]]
        heads = f"heads_of_{head_dim}"
        constants |= {heads: np.array([0, 0, -1, head_dim]), "joined": np.array([0, 0, -1])}
        for reshape, shape in ((split, heads), (join, "joined")):
            changed[id(reshape)] = replace(
                reshape, inputs=(reshape.inputs[0], shape), attributes={}
            )
    operations = tuple(changed.get(id(op), op) for op in program.operations)
    return replace(program, operations=_needed(operations), constants=constants)


def _needed(operations: tuple[Operation, ...]) -> tuple[Operation, ...]:
    """Without the shape arithmetic that nothing reads any more."""
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
