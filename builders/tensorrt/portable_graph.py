"""The traced program in standard operators of opset 24: TensorRT builds it without any plugin.

one layer; the conditional regions are marked, everything else runs for all tokens:

h --+-- norm -- [qkv] -- RotaryEmbedding -- TensorScatter -- Attention -- [o, MLP, residuals] -- h'
    |                                                                    |                       |
    +--------------------------------------------------------------------+         gate(h, h') --+

An If costs TensorRT a synchronisation, so the regions are few: one before and one after attention,
of two conditionals each (_region). Layer 1 always runs the backbone and has none.
"""

from builders.graph.linear import Linear, is_linear
from builders.graph.program import Operation
from builders.graph.regions import LayerRegions
from builders.tensorrt.lowering import TensorRTLowering
from builders.tensorrt.portable_attention import emit_attention, emit_positions
from builders.tensorrt.portable_gate import emit_first_flags, emit_gate
from builders.tensorrt.portable_linear import emit_backbone, emit_river
from builders.tensorrt.scope import TypedScope


class PortableLowering(TensorRTLowering):
    """Portable network."""

    def prologue(self) -> None:
        graph = self.graph
        if self.gated:
            self.flags = emit_first_flags(graph, self.num_layers)
        for operation in self.regions.prologue:
            graph.plain(operation)
        emit_positions(graph, [layer.attention for layer in self.regions.layers])

    def layer(self, number: int, layer: LayerRegions) -> None:
        # Of what comes before attention only the linear has banks: norms and splits stay outside.
        at = next(i for i, op in enumerate(layer.before) if is_linear(op))
        self._emit(self.graph, layer.before[:at])
        self._banked(number, layer.before[at : at + 1])
        self._emit(self.graph, layer.before[at + 1 :])
        emit_attention(self.graph, layer.attention, self.cache_heads[1])
        self._banked(number, layer.after)
        if self.gated:
            self.flags = emit_gate(self.graph, number, self.num_layers, layer, self.flags)

    def head(self) -> None:
        self._emit(self.graph, self.regions.epilogue, self.head_bank)

    def exit_layer(self) -> str:
        return self.flags.exit_layer

    def _banked(self, number: int, operations: tuple[Operation, ...]) -> None:
        """Operations with linears, through the bank that each token's flag names."""
        banks = self.options.banks
        if banks == "river":
            self._emit(self.graph, operations, "river")
        elif banks == "backbone" or number == 1:
            self._emit(self.graph, operations)
        else:
            self._region(number, operations)

    def _region(self, number: int, operations: tuple[Operation, ...]) -> None:
        """all river?  yes: river        mixed?  yes: river too, select by token
                       no: backbone              no:  as it is

        Two conditionals in a row: TensorRT's optimiser fails over one inside another.
        """
        (result,) = self.results(operations)
        whole = f"{result}/whole"
        river, backbone, mixed, same = (self.graph.branch() for _ in range(4))
        self._if(
            f"layers.{number - 1}/if_river/{result}",
            self.flags.all_river,
            whole,
            (river, self._emit(river, operations, "river", "/river")[result]),
            (backbone, self._emit(backbone, operations, "backbone", "/backbone")[result]),
        )
        other = self._emit(mixed, operations, "river", "/mixed")[result]
        rows = [self.flags.river_rows, other, whole]
        self._if(
            f"layers.{number - 1}/if_mixed/{result}",
            self.flags.mixed,
            result,
            (mixed, mixed.emit("Where", rows, f"{result}/chosen")),
            (same, same.emit("Identity", [whole], f"{result}/same")),
        )

    def _if(
        self,
        name: str,
        condition: str,
        output: str,
        then: tuple[TypedScope, str],
        otherwise: tuple[TypedScope, str],
    ) -> None:
        branches = {
            branch: scope.to_graph(branch, {result: scope.onnx_type})
            for branch, (scope, result) in (("then_branch", then), ("else_branch", otherwise))
        }
        self.graph.add("If", [condition], [output], name=name, **branches)

    def _emit(
        self,
        scope: TypedScope,
        operations: tuple[Operation, ...],
        bank: str = "backbone",
        suffix: str = "",
    ) -> dict[str, str]:
        """Copy the operations, each linear through the bank; returns the results' new names."""
        made = [tensor for op in operations for tensor in op.outputs if tensor]
        names = {tensor: tensor + suffix for tensor in made}
        for operation in operations:
            if not is_linear(operation):
                scope.plain(operation, names)
                continue
            linear = Linear.of(operation.renamed(names, suffix), self.program.weight_shapes)
            (emit_river if bank == "river" else emit_backbone)(scope, linear)
        return names
