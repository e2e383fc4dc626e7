"""Which operations of the traced program run under which layer's flag.

prologue      embedding
layer i       before     norm, qkv linear               under the flag of layer i
              attention  on slot i                      no flag: the cache is shared
              after      o, residual, MLP, next norm    under the flag of layer i
              gate       decides the flag of layer i + 1
epilogue      logits of the wanted positions
"""

from dataclasses import dataclass

from builders.graph.linear import input_of, is_linear
from builders.graph.program import Operation, Program
from builders.onnx_schemas import DOMAIN


@dataclass(frozen=True, slots=True)
class LayerRegions:
    """The operations of one layer, in order."""

    before: tuple[Operation, ...]
    attention: Operation
    after: tuple[Operation, ...]
    gate: Operation

    @property
    def h_in(self) -> str:
        return self.gate.inputs[0]

    @property
    def h_out(self) -> str:
        return self.gate.inputs[1]

    @property
    def qkv(self) -> tuple[str, ...]:
        return self.attention.inputs[:3]


@dataclass(frozen=True, slots=True)
class Regions:
    prologue: tuple[Operation, ...]
    layers: tuple[LayerRegions, ...]
    epilogue: tuple[Operation, ...]


def find_regions(program: Program) -> Regions:
    """Cut the program. What is left over computes flags; the lowering makes its own."""
    producers = program.producers()
    gates = _dialect(program, "Gate")
    attentions = _dialect(program, "Attention")
    flags = {input_of(op, "use_river") for op in program.operations if is_linear(op)}
    placed = {id(op) for op in (*gates, *attentions)}

    def needed_for(*tensors: str) -> tuple[Operation, ...]:
        """Operations not placed yet that the tensors need; flags are not followed."""
        wanted: set[int] = set()
        stack = list(tensors)
        while stack:
            tensor = stack.pop()
            operation = None if tensor in flags else producers.get(tensor)
            if operation is not None and id(operation) not in placed:
                placed.add(id(operation))
                wanted.add(id(operation))
                stack += operation.inputs
        return tuple(op for op in program.operations if id(op) in wanted)

    prologue = needed_for(gates[0].inputs[0])
    layers = []
    for index, (attention, gate) in enumerate(zip(attentions, gates, strict=True)):
        assert gate.attributes["layer"] == index + 1, "gates come in layer order"
        before = needed_for(*attention.inputs[:3])
        layers.append(LayerRegions(before, attention, needed_for(gate.inputs[1]), gate))
    epilogue = needed_for("logits")
    return Regions(prologue, tuple(layers), epilogue)


def _dialect(program: Program, op_type: str) -> list[Operation]:
    return [op for op in program.operations if (op.domain, op.op_type) == (DOMAIN, op_type)]
