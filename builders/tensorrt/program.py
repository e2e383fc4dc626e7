"""What both modes change in the traced program before they lower it."""

from dataclasses import replace

from builders.graph.fusions import static_head_norms
from builders.graph.program import Operation, Program
from builders.onnx_schemas import DOMAIN


def prepare(program: Program, tied: bool, head_group_size: int | None = None) -> Program:
    """The head as a linear of one bank, head norms over constant shapes, one table if tied.

    head_group_size: the head is 4-bit, in groups of that size, and has a table of its own.
    """
    program = _head_as_linear(static_head_norms(program, "RMSNormalization"), head_group_size)
    if not tied or head_group_size is not None:
        return program
    operations = tuple(
        op.renamed({"lm_head": "embedding"}, "") if "lm_head" in op.inputs else op
        for op in program.operations
    )
    shapes = {name: s for name, s in program.weight_shapes.items() if name != "lm_head"}
    return replace(program, operations=operations, weight_shapes=shapes)


def _head_as_linear(program: Program, group_size: int | None) -> Program:
    """x, Transpose(lm_head) -- MatMul   becomes   x -- Linear of one bank

    group_size: the bank is a 4-bit river.
    """
    producers, shapes = program.producers(), dict(program.weight_shapes)
    river: tuple[str, ...] = ()
    if group_size is not None:
        vocab, hidden = shapes["lm_head"]
        groups = -(-hidden // group_size)
        river = ("lm_head.qweight", "lm_head.scales", "lm_head.zero_points")
        sizes = ((vocab, groups, group_size // 2), (vocab, groups), (vocab, groups))
        shapes |= dict(zip(river, sizes, strict=True))
    (transpose,) = (op for op in program.operations if op.inputs == ("lm_head",))
    operations = []
    for operation in program.operations:
        if operation.op_type == "MatMul" and producers.get(operation.inputs[1]) is transpose:
            inputs = (operation.inputs[0], "", "lm_head", *river)
            operation = Operation("Linear", inputs, operation.outputs, {}, DOMAIN, "lm_head")
        if operation is not transpose:
            operations.append(operation)
    return replace(program, operations=tuple(operations), weight_shapes=shapes)
