"""What is changed in the traced program before it is lowered, with plugins and without."""

from dataclasses import replace

from builders.graph.fusions import static_head_norms
from builders.graph.linear import RIVER, one_bank
from builders.graph.program import Program


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
    if group_size is not None:
        vocab, hidden = shapes["lm_head"]
        groups = -(-hidden // group_size)
        sizes = ((vocab, groups, group_size // 2), (vocab, groups), (vocab, groups))
        shapes |= {f"lm_head.{part}": size for part, size in zip(RIVER, sizes, strict=True)}
    (transpose,) = (op for op in program.operations if op.inputs == ("lm_head",))
    operations = []
    for operation in program.operations:
        if operation.op_type == "MatMul" and producers.get(operation.inputs[1]) is transpose:
            x, (y,) = operation.inputs[0], operation.outputs
            operation = one_bank("lm_head", x, y, river=group_size is not None)
        if operation is not transpose:
            operations.append(operation)
    return replace(program, operations=tuple(operations), weight_shapes=shapes)
