"""What the two kinds of graph share: inputs and outputs, embedding, layers in order, the head."""

from abc import abstractmethod
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir
from onnx import TensorProto, ValueInfoProto, helper

from builders.graph.linear import Bank
from builders.graph.lowering import Lowering
from builders.graph.program import Operation, Program, read_program
from builders.graph.regions import Regions, find_regions
from builders.job import Banks
from builders.layouts.weights_file import WeightsLayout
from builders.tensorrt.program import prepare
from builders.tensorrt.scope import TypedScope
from river_trt.spec import cache_names

TYPED_LOGITS = "logits/typed"


@dataclass(frozen=True, slots=True)
class GraphOptions:
    """How a graph for TensorRT is written."""

    dtype: np.dtype  # of activations, backbone and KV cache: a value of scope.DTYPES
    weights_file: str
    tied: bool = False  # the head is the embedding
    banks: Banks = "both"
    cache_length: int | None = None  # slots of the cache; None: any number, up to the profile's
    head_group_size: int | None = None  # of a 4-bit head; None: it has the type of the graph
    native_attention: bool = False  # of the plugin network: TensorRT's own layers for attention
    layer_outputs: bool = False  # h.{l} float32 after each layer l: 1..L, to compare backends by


class TensorRTLowering(Lowering):
    """What is the same with plugins and without."""

    def __init__(self, program: Program, regions: Regions, options: GraphOptions) -> None:
        super().__init__(program, regions, WeightsLayout(options.weights_file))
        self.options = options
        self.graph = TypedScope(self.layout, program, options.dtype)
        self.gated = options.banks == "both"

    @classmethod
    def of(cls, model: onnx_ir.Model, options: GraphOptions) -> "TensorRTLowering":
        program = prepare(read_program(model), options.tied, options.head_group_size)
        program = cls.transform(program, options)
        regions = find_regions(program)
        # What the trace calls logits is in the graph's type; the output is float32.
        regions = replace(regions, epilogue=_rename_logits(regions.epilogue))
        program = replace(program, operations=_rename_logits(program.operations))
        return cls(program, regions, options)

    @classmethod
    def transform(cls, program: Program, options: GraphOptions) -> Program:
        """A mode's own changes to the program."""
        return program

    @property
    def main_graph(self) -> TypedScope:
        return self.graph

    @abstractmethod
    def head(self) -> None:
        """Final norm and head."""

    @abstractmethod
    def exit_layer(self) -> str:
        """The name of exit_layer int32 [batch, seq] after the last layer."""

    def epilogue(self) -> None:
        self.head()
        wide, graph = int(TensorProto.FLOAT), self.graph
        graph.emit("Cast", [TYPED_LOGITS], "logits", name="logits/float32", to=wide)
        graph.emit("Identity", [self._exit_layer()], "exit_layer")
        if self.options.layer_outputs:
            for number, layer in enumerate(self.regions.layers, start=1):
                graph.cast(layer.h_out, f"h.{number}", wide)

    def _exit_layer(self) -> str:
        if self.gated:
            return self.exit_layer()
        shape = self.graph.emit("Shape", ["input_ids"], "token_shape")
        last = helper.make_tensor("value", TensorProto.INT32, [1], [self.num_layers])
        return self.graph.emit("ConstantOfShape", [shape], "exit_layer/none", value=last)

    @property
    def head_bank(self) -> Bank:
        """The one bank that the head has."""
        return "backbone" if self.options.head_group_size is None else "river"

    @property
    def flag_type(self) -> int:
        """Of the inputs pinned and use_directions."""
        return int(TensorProto.BOOL)

    def inputs(self) -> list[ValueInfoProto]:
        layers, hidden = self.num_layers, self.program.weight_shapes["norm.weight"][0]
        step = [
            _value("input_ids", TensorProto.INT64, ["batch", "seq"]),
            _value("past_lengths", TensorProto.INT32, ["batch"]),
            _value("logit_indices", TensorProto.INT64, ["num_logits"]),
        ]
        policy = [
            _value("tau", TensorProto.FLOAT, [layers]),
            _value("pinned", self.flag_type, [layers]),
            _value("use_directions", self.flag_type, []),
            _value("directions", TensorProto.FLOAT, [layers, hidden]),
            _value("gate_scope", TensorProto.INT32, []),
        ]
        return step + (policy if self.gated else []) + self._caches("")

    def outputs(self) -> list[ValueInfoProto]:
        vocab, hidden = self.program.weight_shapes["embedding"]
        layers = self.num_layers if self.options.layer_outputs else 0
        return [
            _value("logits", TensorProto.FLOAT, ["batch", "num_logits", vocab]),
            _value("exit_layer", TensorProto.INT32, ["batch", "seq"]),
            *self._caches("_out"),
            *(
                _value(f"h.{number}", TensorProto.FLOAT, ["batch", "seq", hidden])
                for number in range(1, layers + 1)
            ),
        ]

    def _caches(self, suffix: str) -> list[ValueInfoProto]:
        heads, head_dim = self.cache_heads
        slots = self.options.cache_length or "cache"
        shape: list[str | int] = ["batch", heads, slots, head_dim]
        names = cache_names(self.num_layers, suffix)
        return [_value(name, self.graph.onnx_type, shape) for name in names]

    @property
    def cache_heads(self) -> tuple[int, int]:
        """num_kv_heads and head_dim."""
        attention = self.regions.layers[0].attention
        num_heads, num_kv_heads = (attention.attributes[n] for n in ("num_heads", "num_kv_heads"))
        rows = self.program.weight_shapes["layers.0.self_attn.qkv_proj.weight"][0]
        return int(num_kv_heads), int(rows // (num_heads + 2 * num_kv_heads))


def _value(name: str, onnx_type: int, shape: list[str | int]) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, onnx_type, shape)


def _rename_logits(operations: tuple[Operation, ...]) -> tuple[Operation, ...]:
    return tuple(
        op.renamed({"logits": TYPED_LOGITS}, "") if "logits" in op.outputs else op
        for op in operations
    )
