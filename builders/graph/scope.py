"""A graph under construction: the main graph or the body of one branch."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from builders.graph.program import MICROSOFT, Operation
from builders.layouts.weights_file import WeightsLayout


class Scope:
    """Collects nodes and the initializers they read.

    Initializers live in the branch that reads them: ONNX Runtime hands every outer tensor that a
    branch names to it on each run, which would cost more than the branch.
    """

    def __init__(self, layout: WeightsLayout) -> None:
        self.layout = layout
        self.nodes: list[NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}

    def branch(self) -> "Scope":
        """An empty scope over the same weights."""
        return Scope(self.layout)

    def add(self, op_type: str, inputs: list[str], outputs: list[str], **attributes: Any) -> str:
        """Add a node, named after its first output unless told, and return that output."""
        named = {"name": outputs[0]} | attributes
        self.nodes.append(helper.make_node(op_type, inputs, outputs, **named))
        return outputs[0]

    def contrib(
        self, op_type: str, inputs: list[str], outputs: list[str], **attributes: Any
    ) -> str:
        """Add one of ONNX Runtime's own operators."""
        return self.add(op_type, inputs, outputs, domain=MICROSOFT, **attributes)

    def copy(self, operation: Operation) -> None:
        """Add an operation of the program as it is."""
        self.nodes.append(operation.to_proto())

    def constant(self, name: str, value: np.ndarray) -> str:
        """A small constant, stored in the graph."""
        self.initializers[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def weight(self, name: str, dtype: Any, shape: tuple[int, ...]) -> str:
        """A weight, stored in the external file."""
        self.initializers[name] = self.layout.tensor(name, np.dtype(dtype), shape)
        return name

    def to_graph(self, name: str, outputs: Mapping[str, int]) -> GraphProto:
        """A branch body that returns `outputs` (tensor name to ONNX element type)."""
        values = [helper.make_tensor_value_info(out, kind, None) for out, kind in outputs.items()]
        return helper.make_graph(self.nodes, name, [], values, list(self.initializers.values()))
