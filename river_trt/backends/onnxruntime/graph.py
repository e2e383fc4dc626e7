"""What a file of ONNX says it will do, read before a library does it.

Only the parts that the rules look at (rules.py) are read: operators with their inputs and
outputs, branches, and where tensors lie. Numbers of fields are those of onnx.proto.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from river_trt.backends.onnxruntime.protobuf import Field, fields, varints

MOST_NODES, MOST_TENSORS, MOST_DEPTH = 200_000, 200_000, 8
# Message -> what must not be in it, for nothing that this project builds has it.
FOREIGN = {
    "Model": {20: "training information", 25: "functions"},
    "Graph": {15: "sparse tensors"},
    "Node": {8: "an overload"},
    "Attribute": {21: "a reference", 22: "a sparse tensor", 23: "sparse tensors"},
}


@dataclass(slots=True)
class Node:
    """An operator: what the rules look at, and no more."""

    op_type: str = ""
    domain: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    branches: list["Graph"] = field(default_factory=list)
    tensors: list["Tensor"] = field(default_factory=list)  # in its attributes
    integers: dict[str, int] = field(default_factory=dict)  # its attributes that are one


@dataclass(slots=True)
class Tensor:
    """An initializer or a constant; its values are not read."""

    name: str = ""
    data_type: int = 0
    shape: list[int] = field(default_factory=list)
    is_external: bool = False
    place: dict[str, str] = field(default_factory=dict)  # location, offset, length


@dataclass(slots=True)
class Graph:
    """The main graph, or a branch of a conditional."""

    nodes: list[Node] = field(default_factory=list)
    initializers: list[Tensor] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)

    def all_nodes(self) -> Iterator[Node]:
        """Those of its branches too."""
        for node in self.nodes:
            yield node
            for branch in node.branches:
                yield from branch.all_nodes()

    def all_initializers(self) -> Iterator[Tensor]:
        """Those of its branches too."""
        yield from self.initializers
        for node in self.nodes:
            for branch in node.branches:
                yield from branch.all_initializers()


def read_graph(model: bytes) -> Graph:
    """The graph of a ModelProto. Raises ValueError for anything else, and for what is foreign."""
    return _Reader().model(memoryview(model))


class _Reader:
    def __init__(self) -> None:
        self.nodes = self.tensors = 0

    def model(self, message: memoryview) -> Graph:
        graph = Graph()
        for item in _known(message, "Model"):
            if (
                item.number == 7
            ):  # a message that comes twice is one message with the fields of both
                self.graph(_bytes(item), graph, 0)
        return graph

    def graph(self, message: memoryview, graph: Graph, depth: int) -> None:
        if depth > MOST_DEPTH:
            raise ValueError(f"branches in branches, more than {MOST_DEPTH} deep")
        for item in _known(message, "Graph"):
            match item.number:
                case 1:
                    graph.nodes.append(self.node(_bytes(item), depth))
                case 5:
                    graph.initializers.append(self.tensor(_bytes(item)))
                case 12:
                    graph.outputs += [_text(f) for f in fields(_bytes(item)) if f.number == 1]

    def node(self, message: memoryview, depth: int) -> Node:
        self.nodes += 1
        if self.nodes > MOST_NODES:
            raise ValueError(f"more than {MOST_NODES} operators")
        node = Node()
        for item in _known(message, "Node"):
            match item.number:
                case 1:
                    node.inputs.append(_text(item))
                case 2:
                    node.outputs.append(_text(item))
                case 4:
                    node.op_type = _once(node.op_type, item)
                case 7:
                    node.domain = _once(node.domain, item)
                case 5:
                    self.attribute(_bytes(item), node, depth)
        return node

    def attribute(self, message: memoryview, node: Node, depth: int) -> None:
        branch, name = Graph(), ""
        for item in _known(message, "Attribute"):
            match item.number:
                case 1:
                    name = _once(name, item)
                case 3:
                    if name in node.integers:
                        raise ValueError(f"the attribute {name!r} comes twice")
                    node.integers[name] = _number(item)
                case 5 | 10:
                    node.tensors.append(self.tensor(_bytes(item)))
                case 6:
                    self.graph(_bytes(item), branch, depth + 1)
                case 11:
                    raise ValueError("a list of graphs")
        if branch.nodes or branch.outputs:
            node.branches.append(branch)

    def tensor(self, message: memoryview) -> Tensor:
        self.tensors += 1
        if self.tensors > MOST_TENSORS:
            raise ValueError(f"more than {MOST_TENSORS} tensors")
        tensor = Tensor()
        for item in _known(message, "Tensor"):
            match item.number:
                case 1:
                    packed = [item.value] if isinstance(item.value, int) else varints(item.value)
                    tensor.shape += packed
                case 2:
                    tensor.data_type = _number(item)
                case 8:
                    tensor.name = _once(tensor.name, item)
                case 13:
                    entry = {f.number: _text(f) for f in fields(_bytes(item))}
                    if entry.get(1, "") in tensor.place:
                        raise ValueError("a tensor has two places")
                    tensor.place[entry.get(1, "")] = entry.get(2, "")
                case 14:
                    tensor.is_external = _number(item) == 1
        return tensor


def _known(message: memoryview, kind: str) -> Iterator[Field]:
    foreign = FOREIGN.get(kind, {})
    for item in fields(message):
        if item.number in foreign:
            raise ValueError(f"it has {foreign[item.number]}")
        yield item


def _bytes(item: Field) -> memoryview:
    if isinstance(item.value, int):
        raise ValueError(f"field {item.number} is a number")
    return item.value


def _number(item: Field) -> int:
    if not isinstance(item.value, int):
        raise ValueError(f"field {item.number} is no number")
    return item.value


def _text(item: Field) -> str:
    return bytes(_bytes(item)).decode("utf-8")


def _once(known: str, item: Field) -> str:
    """Of a field that comes twice protobuf takes the last: nothing here writes such a file."""
    text = _text(item)
    if known and text != known:
        raise ValueError(f"field {item.number} comes twice")
    return text
