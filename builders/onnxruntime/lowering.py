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
from builders.graph.lowering import Lowering
from builders.graph.program import MICROSOFT, Operation, Program, read_program
from builders.graph.regions import LayerRegions, Regions, find_regions
from builders.graph.scope import Scope
from builders.job import Banks
from builders.layouts.weights_file import WeightsLayout
from builders.onnxruntime.emit import (
    ACCURACY_LEVELS,
    RegionEmitter,
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
from builders.onnxruntime.options import CpuCache
from builders.options import RiverActivation


@dataclass(frozen=True, slots=True)
class LoweringOptions:
    head: HeadPrecision
    river_activation: RiverActivation
    weights_file: str
    group_size: int
    banks: Banks = "both"
    backbone_bits: int = 32  # 8, 16 or 32
    kv_cache: CpuCache = "float32"


def lower(model: onnx_ir.Model, options: LoweringOptions) -> tuple[ModelProto, WeightsLayout]:
    """Graph and the layout of the weights file that it points into."""
    program = fuse(read_program(model))
    return RuntimeLowering(model, program, find_regions(program), options).lower()


class RuntimeLowering(Lowering):
    """A graph of ONNX Runtime's own operators; native kernels override its steps."""

    custom_domains: ClassVar[tuple[tuple[str, int], ...]] = ((MICROSOFT, 1),)

    def __init__(
        self, model: onnx_ir.Model, program: Program, regions: Regions, options: LoweringOptions
    ) -> None:
        super().__init__(program, regions, WeightsLayout(options.weights_file))
        self.model, self.options = model, options
        accuracy_level = ACCURACY_LEVELS[options.river_activation]
        group_size = options.group_size if options.backbone_bits == 8 else None
        self.emitter = RegionEmitter(program, self.readers, accuracy_level, group_size)
        self.graph = Scope(self.layout)
        self.state = GateState.after(0)  # of the layers emitted so far
        self.exit_layers: list[str] = []  # each gated layer's own

    @property
    def main_graph(self) -> Scope:
        return self.graph

    def inputs(self) -> list[ValueInfoProto]:
        return [_value_info(value) for value in self.model.graph.inputs]

    def outputs(self) -> list[ValueInfoProto]:
        return [_value_info(value) for value in self.model.graph.outputs]

    def prologue(self) -> None:
        graph = self.graph
        emit_lengths(graph)
        if self.options.banks == "both":
            graph.add("Not", ["pinned"], ["unpinned"])
            flags = [f"unpinned.{number}" for number in range(1, self.num_layers + 1)]
            graph.add("Split", ["unpinned"], flags, axis=0, num_outputs=self.num_layers)
            emit_gate_inputs(graph, self.program.weight_shapes["norm.weight"][0])
            self.state = emit_first_state(graph)
        emit_embedding(graph, self.regions.prologue, self.emitter, self.options.head)

    def layer(self, number: int, layer: LayerRegions) -> None:
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
        results = self.results(operations)
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

    def epilogue(self) -> None:
        emit_lm_head(self.graph, self.regions.epilogue, self.emitter, self.options.head)
        emit_exit_layer(self.graph, self.num_layers, self.exit_layers)


def _value_info(value: onnx_ir.Value) -> ValueInfoProto:
    assert value.name and value.dtype is not None and value.shape is not None
    shape = [size if isinstance(size, int) else str(size.value) for size in value.shape]
    return helper.make_tensor_value_info(value.name, value.dtype.value, shape)
