"""The traced program as ONNX nodes that TensorRT's parser gives to the plugins of plugins/tensorrt.

one layer; flags are int32 and stay on the device, and nothing branches:

h --+-- RiverLinear(norm, qkv) -- RiverAttention -- RiverLinear(o, residual) --+-- ...
    |                                                                          |
... -- RiverLinear(norm, gate_up, silu_mul) -- RiverLinear(down, residual) -- h'
                                          RiverGate(h, h') -- exited, use_river of the next layer

With native_attention the attention is TensorRT's own, as in portable network: Attention and
KVCacheUpdate of version 10.15 and later, whose cache has a length that is fixed when building.

A family's other operations (norms of heads and of outputs, GELU, soft cap of the logits) stay plain
nodes between the plugins.
"""

from typing import Any

import numpy as np
from onnx import TensorProto

from builders.graph.fusions import pack_qkv
from builders.graph.linear import Linear
from builders.graph.program import Operation, Program
from builders.graph.regions import LayerRegions
from builders.tensorrt.lowering import GraphOptions, TensorRTLowering
from builders.tensorrt.plugin_fusions import FusedLinear, fuse_linears
from builders.tensorrt.portable_attention import emit_attention, emit_positions

NAMESPACE = "river_trt"  # of the plugins; the parser takes it from a node's domain
PLUGIN_VERSION = "1"
PLAIN_OPSET = 20  # the oldest that has every plain operator, for the sake of older parsers
PREFILL = 0  # cuBLASLt where a step has many rows, as is the plugin's own choice
BANKS = {"both": 0, "backbone": 1, "river": 2}  # the attribute `banks` of RiverLinear
INT32_BYTES = 4
# What a linear has not, said so: the parser warns of every optional attribute that is left out.
PLAIN_LINEAR: dict[str, Any] = {
    **dict.fromkeys(("group_size", "zero_points", "pre_scale", "bias", "norm"), 0),
    "norm_eps": 0.0,
    "residual": 0,
    "silu_mul": 0,
    "prefill": PREFILL,
    "programmatic": 0,
}


class PluginLowering(TensorRTLowering):
    """Plugin network."""

    custom_domains = ((NAMESPACE, 1),)

    @classmethod
    def transform(cls, program: Program, options: GraphOptions) -> Program:
        return program if options.native_attention else pack_qkv(program)

    @property
    def flag_type(self) -> int:
        return int(TensorProto.INT32)

    def prologue(self) -> None:
        if not self.options.native_attention:
            self.opset_version = PLAIN_OPSET
        self.exited: list[str] = []  # exited and exit_layer so far
        self.use_river = ""  # flags of the layer to come; nothing has exited before layer 1
        for operation in self.regions.prologue:
            self.graph.plain(operation)
        if self.options.native_attention:
            emit_positions(self.graph, [layer.attention for layer in self.regions.layers])

    def layer(self, number: int, layer: LayerRegions) -> None:
        bank = self.options.banks
        if bank == "both" and number == 1:
            bank = "backbone"
        self._operations(layer.before, bank)
        if self.options.native_attention:
            emit_attention(self.graph, layer.attention, self.cache_heads[1])
        else:
            self._attention(layer.attention)
        self._operations(layer.after, bank)
        if self.gated:
            self._gate(number, layer)

    def head(self) -> None:
        self._operations(self.regions.epilogue, self.head_bank)

    def exit_layer(self) -> str:
        return self.exited[1]

    def _plugin(
        self, kind: str, name: str, inputs: list[str], outputs: list[str], **fields: Any
    ) -> None:
        fields |= {"plugin_version": PLUGIN_VERSION, "plugin_namespace": NAMESPACE}
        self.graph.add(kind, inputs, outputs, name=name, domain=NAMESPACE, **fields)

    def _operations(self, operations: tuple[Operation, ...], bank: str) -> None:
        for item in fuse_linears(operations, self.readers):
            if isinstance(item, FusedLinear):
                self._linear(item, bank)
            else:
                self.graph.plain(item)

    def _linear(self, fused: FusedLinear, bank: str) -> None:
        """Inputs in the order of plugins/tensorrt/linear_plugin.h."""
        graph, shapes, dtype = self.graph, self.program.weight_shapes, self.graph.dtype
        linear = Linear.of(fused.linear, shapes)
        (n, k), path = linear.shape, linear.path
        fields = PLAIN_LINEAR | {"banks": BANKS[bank]}
        inputs = [fused.x]
        if bank == "both":
            inputs.append(self.use_river)
        if bank != "river":
            inputs.append(graph.weight(linear.weight, dtype, (n, k)))
        if bank != "backbone":
            groups, fields["group_size"] = linear.groups, linear.group_size
            words = (n, groups * linear.group_size // 2 // INT32_BYTES)
            inputs.append(graph.weight(f"{path}.qweight_int32", np.int32, words))
            inputs.append(graph.weight(f"{path}.scales_float16", np.float16, (n, groups)))
            if linear.has_zero_points:
                fields["zero_points"] = 1
                size = -(-n * groups // INT32_BYTES)
                inputs.append(graph.weight(f"{path}.zero_points_int32", np.int32, (size,)))
            if linear.has_pre_scale:
                fields["pre_scale"] = 1
                inputs.append(graph.weight(f"{path}.pre_scale_float16", np.float16, (k,)))
        if linear.has_bias:
            fields["bias"] = 1
            inputs.append(graph.weight(f"{path}.bias", dtype, (n,)))
        if fused.norm is not None:
            fields |= {"norm": 1, "norm_eps": float(fused.norm.attributes["epsilon"])}
            inputs.append(graph.weight(fused.norm.inputs[1], dtype, (k,)))
        if fused.residual is not None:
            fields["residual"] = 1
            inputs.append(fused.residual)
        if fused.silu_mul:
            fields["silu_mul"] = 1
        self._plugin("RiverLinear", fused.linear.name, inputs, [fused.output], **fields)

    def _attention(self, attention: Operation) -> None:
        graph = self.graph
        q, k, v, k_cache, v_cache, past_lengths, *tables = attention.inputs
        packed = not k
        inputs = [q] if packed else [q, k, v]
        inputs += [k_cache, v_cache, past_lengths]
        rotary = any(tables)
        if rotary:
            shapes = self.program.weight_shapes
            inputs += [graph.weight(f"{t}_float32", np.float32, shapes[t]) for t in tables]
        module = attention.name.rpartition("/")[0]
        given = attention.attributes
        self._plugin(
            "RiverAttention",
            f"{module}.attention",
            inputs,
            list(attention.outputs),
            num_heads=given["num_heads"],
            num_kv_heads=given["num_kv_heads"],
            scale=float(given["scale"]),
            packed_qkv=int(packed),
            rotary=int(rotary),
            window=given["window"],
            softcap=float(given["softcap"]),
            aliased_caches=1,
            programmatic=0,
        )

    def _gate(self, number: int, layer: LayerRegions) -> None:
        is_last = number == self.num_layers
        inputs = [layer.h_in, layer.h_out, "directions", "use_directions", "tau"]
        inputs += [] if is_last else ["pinned"]
        inputs += ["gate_scope", *self.exited]
        self.exited = [f"exited.{number}", f"exit_layer.{number}"]
        self.use_river = f"use_river.{number + 1}"
        outputs = [*self.exited, *([] if is_last else [self.use_river])]
        name = f"layers.{number - 1}.gate"
        fields = {"layer": number, "num_layers": self.num_layers, "direction": 1}
        fields |= {"residual": 0, "programmatic": 0}
        self._plugin("RiverGate", name, inputs, outputs, **fields)
