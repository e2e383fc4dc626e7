"""What every lowering to an ONNX file does: layers in order, then one model of it all."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from onnx import ModelProto, ValueInfoProto, helper

from builders.graph.program import Operation, Program, consumers
from builders.graph.regions import LayerRegions, Regions
from builders.graph.scope import Scope
from builders.layouts.weights_file import WeightsLayout

IR_VERSION = 10


class Lowering(ABC):
    """A graph under construction, layer after layer."""

    opset_version = 24
    custom_domains: ClassVar[tuple[tuple[str, int], ...]] = ()  # (domain, version)

    def __init__(self, program: Program, regions: Regions, layout: WeightsLayout) -> None:
        self.program, self.regions, self.layout = program, regions, layout
        self.readers = consumers(program.operations)
        self.num_layers = len(regions.layers)

    @property
    @abstractmethod
    def main_graph(self) -> Scope:
        """What all nodes outside a branch are added to."""

    @abstractmethod
    def prologue(self) -> None:
        """Embedding, and what all layers read."""

    @abstractmethod
    def layer(self, number: int, layer: LayerRegions) -> None:
        """Layer `number`, from 1."""

    @abstractmethod
    def epilogue(self) -> None:
        """Final norm, head, and the outputs."""

    @abstractmethod
    def inputs(self) -> list[ValueInfoProto]: ...

    @abstractmethod
    def outputs(self) -> list[ValueInfoProto]: ...

    def lower(self) -> tuple[ModelProto, WeightsLayout]:
        """Graph and the layout of the weights file that it points into."""
        self.prologue()
        for number, layer in enumerate(self.regions.layers, start=1):
            self.layer(number, layer)
        self.epilogue()
        scope = self.main_graph
        graph = helper.make_graph(
            scope.nodes, "river", self.inputs(), self.outputs(), list(scope.initializers.values())
        )
        opsets = [("", self.opset_version), *self.custom_domains]
        proto = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid(domain, version) for domain, version in opsets],
            ir_version=IR_VERSION,
        )
        proto.producer_name = "river-trt"
        return proto, self.layout

    def results(self, operations: Sequence[Operation]) -> list[str]:
        """Tensors that a region makes and others read."""
        inside = {id(operation) for operation in operations}
        return [
            tensor
            for operation in operations
            for tensor in operation.outputs
            if tensor and any(id(reader) not in inside for reader in self.readers.get(tensor, ()))
        ]
