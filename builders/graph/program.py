"""A traced ONNX graph as a flat list of operations: easier to cut and to clone than the IR."""

import ast
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx_ir
from onnx import NodeProto, helper

MICROSOFT = "com.microsoft"


@dataclass(frozen=True, slots=True)
class Operation:
    """One ONNX node. Absent optional inputs are empty strings."""

    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    domain: str = ""
    name: str = ""  # of the node: its module path

    def renamed(self, names: dict[str, str], suffix: str) -> "Operation":
        """The same operation on other tensors, for a copy inside a conditional region."""
        return replace(
            self,
            inputs=tuple(names.get(tensor, tensor) for tensor in self.inputs),
            outputs=tuple(names.get(tensor, tensor) for tensor in self.outputs),
            name=self.name + suffix,
        )

    def to_proto(self) -> NodeProto:
        return helper.make_node(
            self.op_type,
            self.inputs,
            self.outputs,
            name=self.name,
            domain=self.domain,
            **self.attributes,
        )


@dataclass(frozen=True, slots=True)
class Program:
    """Operations in topological order, the small constants they read, and weight shapes."""

    operations: tuple[Operation, ...]
    constants: dict[str, np.ndarray]
    weight_shapes: dict[str, tuple[int, ...]]

    def producers(self) -> dict[str, Operation]:
        return {tensor: op for op in self.operations for tensor in op.outputs if tensor}


def consumers(operations: Iterable[Operation]) -> dict[str, list[Operation]]:
    """Tensor name to the operations that read it."""
    found: dict[str, list[Operation]] = {}
    for operation in operations:
        for tensor in operation.inputs:
            found.setdefault(tensor, []).append(operation)
    return found


def read_program(model: onnx_ir.Model) -> Program:
    """Flatten a traced model. Weights stay names with shapes: they have no data yet."""
    constants = {
        name: value.const_value.numpy()
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
    }
    weight_shapes = {
        name: tuple(int(size) for size in value.shape or ())
        for name, value in model.graph.initializers.items()
        if value.const_value is None
    }
    operations = []
    for node in model.graph:
        if node.op_type == "Constant":
            constants[_name(node.outputs[0])] = _constant(node)
            continue
        outputs = tuple(_name(value) for value in node.outputs)
        operations.append(
            Operation(
                op_type=node.op_type,
                inputs=tuple("" if value is None else _name(value) for value in node.inputs),
                outputs=outputs,
                attributes={name: attr.value for name, attr in node.attributes.items()},
                domain=node.domain,
                name=_node_name(node, outputs[0]),
            )
        )
    return Program(tuple(operations), constants, weight_shapes)


def _name(value: onnx_ir.Value) -> str:
    assert value.name, "the exporter names every tensor"
    return str(value.name)


def _node_name(node: onnx_ir.Node, output: str) -> str:
    """layers.3.mlp.down_proj for a linear, layers.3.mlp/mul_5 for a plain operation in there."""
    scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))
    module = str(scopes[-2]) if len(scopes) > 1 else ""
    if node.op_type == "Linear":
        return module
    return f"{module}/{output}" if module else output


def _constant(node: onnx_ir.Node) -> np.ndarray:
    (attribute,) = node.attributes.values()
    if isinstance(attribute.value, onnx_ir.TensorProtocol):
        value: np.ndarray = attribute.value.numpy()
        return value
    dtype = np.float32 if "float" in attribute.name else np.int64
    return np.array(attribute.value, dtype)
