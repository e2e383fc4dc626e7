"""The traced program as an ONNX Runtime graph with one conditional region before and one after
each attention.

    all_exited and not pinned?
      yes: river
      no:  backbone, then: any row on the river?  yes: river too, select by row
                                                  no:  done
           (after attention also:) gate

An exited row stays exited, so the river branch needs no gate. Layer 1 always runs the backbone
and the flag of layer L is never read, so neither has what it does not need.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from builders.graph.linear import Bank
from builders.graph.program import MICROSOFT, Operation, Program, consumers, read_program
from builders.graph.regions import LayerRegions, Regions, find_regions
from builders.graph.scope import Scope
from builders.job import Banks
from builders.layouts.weights_file import WeightsLayout
from builders.onnxruntime.emit import (
    ACCURACY_LEVELS,
    RegionEmitter,
    RiverActivation,
    emit_attention,
    emit_lengths,
)
from builders.onnxruntime.fusions import fuse
from builders.onnxruntime.gate import (
    GateState,
    emit_exit_layer,
    emit_first_state,
    emit_gate,
    emit_gate_if_any,
    emit_gate_inputs,
    emit_river_state,
)
from builders.onnxruntime.lm_head import HeadPrecision, emit_embedding, emit_lm_head

OPSET_VERSION = 24
IR_VERSION = 10


@dataclass(frozen=True, slots=True)
class LoweringOptions:
    head: HeadPrecision
    river_activation: RiverActivation
    weights_file: str
    group_size: int
    banks: Banks = "both"
    backbone_bits: int = 32  # one of recipes.BACKBONE_BITS


def lower(model: onnx_ir.Model, options: LoweringOptions) -> tuple[ModelProto, WeightsLayout]:
    """Graph and the layout of the weights file that it points into."""
    program = fuse(read_program(model))
    return Lowering(program, find_regions(program), options).lower(model)


class Lowering:
    """A graph under construction, layer after layer. Other kernels override its steps."""

    custom_domains: ClassVar[tuple[tuple[str, int], ...]] = ()  # (domain, version)

    def __init__(self, program: Program, regions: Regions, options: LoweringOptions) -> None:
        self.program, self.regions, self.options = program, regions, options
        self.layout = WeightsLayout(options.weights_file)
        self.readers = consumers(program.operations)
        accuracy_level = ACCURACY_LEVELS[options.river_activation]
        group_size = options.group_size if options.backbone_bits == 8 else None
        self.emitter = RegionEmitter(program, self.readers, accuracy_level, group_size)
        self.graph = Scope(self.layout)
        self.num_layers = len(regions.layers)
        self.state = GateState.after(0)  # of the layers emitted so far
        self.exit_layers: list[str] = []  # each gated layer's own

    def lower(self, model: onnx_ir.Model) -> tuple[ModelProto, WeightsLayout]:
        self._prologue()
        for number, layer in enumerate(self.regions.layers, start=1):
            self._layer(number, layer)
        self._epilogue()
        inputs, outputs = (
            [_value_info(value) for value in values]
            for values in (model.graph.inputs, model.graph.outputs)
        )
        initializers = list(self.graph.initializers.values())
        graph = helper.make_graph(self.graph.nodes, "river", inputs, outputs, initializers)
        opsets = [
            helper.make_opsetid(domain, version)
            for domain, version in (("", OPSET_VERSION), (MICROSOFT, 1), *self.custom_domains)
        ]
        proto = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        proto.producer_name = "river-trt"
        return proto, self.layout

    def _prologue(self) -> None:
        graph = self.graph
        emit_lengths(graph)
        if self.options.banks == "both":
            graph.add("Not", ["pinned"], ["unpinned"])
            flags = [f"unpinned.{number}" for number in range(1, self.num_layers + 1)]
            graph.add("Split", ["unpinned"], flags, axis=0, num_outputs=self.num_layers)
            emit_gate_inputs(graph, self.program.weight_shapes["norm.weight"][0])
            self.state = emit_first_state(graph)
        emit_embedding(graph, self.regions.prologue, self.emitter, self.options.head)

    def _layer(self, number: int, layer: LayerRegions) -> None:
        gated = number < self.num_layers
        if number == 1 or self.options.banks != "both":
            bank: Bank = "river" if self.options.banks == "river" else "backbone"
            self.emitter.emit(self.graph, layer.before, bank, "")
            emit_attention(self.graph, layer.attention, self.program)
            self.emitter.emit(self.graph, layer.after, bank, "")
            if gated and self.options.banks == "both":
                self._advance(emit_gate(self.graph, number, layer.h_in, layer.h_out, self.state))
            return
        self.graph.add(
            "And", [self.state.all_exited, f"unpinned.{number}"], [f"all_river.{number}"]
        )
        self._region(number, layer.before, None)
        emit_attention(self.graph, layer.attention, self.program)
        self._region(number, layer.after, layer if gated else None)

    def _advance(self, state: GateState) -> None:
        self.state = state
        self.exit_layers.append(state.exit_layer)

    def _region(
        self, number: int, operations: tuple[Operation, ...], gated: LayerRegions | None
    ) -> None:
        """One conditional region; with `gated`, the gate of that layer is its end."""
        results = self._results(operations)
        river = self.graph.branch()
        names = self.emitter.emit(river, operations, "river", "/river")
        river_outputs = [names[tensor] for tensor in results]
        backbone = self.graph.branch()
        backbone_outputs = self._backbone_or_mixed(backbone, number, operations, results)
        kinds = [int(TensorProto.FLOAT)] * len(results)
        outputs = list(results)
        if gated is not None:
            h_out = backbone_outputs[results.index(gated.h_out)]
            gate = emit_gate_if_any(backbone, number, gated.h_in, h_out, self.state, "/backbone")
            backbone_outputs += gate.names
            river_outputs += emit_river_state(river, number).names
            self._advance(GateState.after(number))
            outputs += self.state.names
            kinds += GateState.ELEMENT_TYPES
        self.graph.add(
            "If",
            [f"all_river.{number}"],
            outputs,
            name=f"layers.{number - 1}/if_river/{results[0]}",
            then_branch=river.to_graph("river", dict(zip(river_outputs, kinds, strict=True))),
            else_branch=backbone.to_graph(
                "backbone", dict(zip(backbone_outputs, kinds, strict=True))
            ),
        )

    def _backbone_or_mixed(
        self, scope: Scope, number: int, operations: tuple[Operation, ...], results: list[str]
    ) -> list[str]:
        """Backbone for all rows, and where some rows have exited, river and a select."""
        backbone = self.emitter.emit(scope, operations, "backbone", "/backbone")
        p = f"{results[0]}/"
        any_river = scope.add(
            "And", [self.state.any_exited, f"unpinned.{number}"], [f"{p}any_river"]
        )
        mixed, plain = scope.branch(), scope.branch()
        river = self.emitter.emit(mixed, operations, "river", "/mixed")
        last = mixed.constant(f"{p}previous", np.array(number - 1, np.int32))
        axis = mixed.constant(f"{p}last_axis", np.array([-1]))
        exited = mixed.add("LessOrEqual", [self.state.exit_layer, last], [f"{p}exited"])
        mask = mixed.add("Unsqueeze", [exited, axis], [f"{p}use_river"])
        floats = int(TensorProto.FLOAT)
        chosen = {
            mixed.add("Where", [mask, river[t], backbone[t]], [f"{t}/chosen"]): floats
            for t in results
        }
        same = {plain.add("Identity", [backbone[t]], [f"{t}/same"]): floats for t in results}
        outputs = [f"{tensor}/selected" for tensor in results]
        scope.add(
            "If",
            [any_river],
            outputs,
            name=f"layers.{number - 1}/if_mixed/{results[0]}",
            then_branch=mixed.to_graph("mixed", chosen),
            else_branch=plain.to_graph("plain", same),
        )
        return outputs

    def _results(self, operations: tuple[Operation, ...]) -> list[str]:
        """Tensors that the region makes and others read."""
        inside = {id(operation) for operation in operations}
        made = (t for operation in operations for t in operation.outputs if t)
        return [
            tensor
            for tensor in made
            if any(id(reader) not in inside for reader in self.readers.get(tensor, ()))
        ]

    def _epilogue(self) -> None:
        emit_lm_head(self.graph, self.regions.epilogue, self.emitter, self.options.head)
        emit_exit_layer(self.graph, self.num_layers, self.exit_layers)


def _value_info(value: onnx_ir.Value) -> ValueInfoProto:
    assert value.name and value.dtype is not None and value.shape is not None
    shape = [size if isinstance(size, int) else str(size.value) for size in value.shape]
    return helper.make_tensor_value_info(value.name, value.dtype.value, shape)
