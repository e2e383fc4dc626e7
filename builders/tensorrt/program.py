"""What both modes change in the traced program before they lower it."""

from dataclasses import replace

from builders.onnx_schemas import DOMAIN
from builders.onnxruntime.fusions import static_head_norms
from builders.onnxruntime.program import Operation, Program


def prepare(program: Program, tied: bool) -> Program:
    """The head as a linear of one bank, head norms over constant shapes, one table if tied."""
    program = _head_as_linear(static_head_norms(program, "RMSNormalization"))
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
