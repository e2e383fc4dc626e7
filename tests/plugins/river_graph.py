"""An ONNX graph of plugin nodes: a decoder of two layers that uses all three plugins.

one layer (layer 1 is all backbone: nothing has exited before it):

h --+-- RiverLinear(norm, qkv) -- RiverAttention -- RiverLinear(o, residual) --+-- ...
    |                                                                          |
... -- RiverLinear(norm, gate_up, silu_mul) -- RiverLinear(down, residual) -- h'
                                          RiverGate(h, h') -- exited, use_river of layer 2
"""

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INTERMEDIATE, GROUP, LAYERS = 64, 4, 2, 16, 96, 32, 2
CAPACITY, POSITIONS = 128, 128
PLUGIN = {"plugin_version": "1", "plugin_namespace": "river_trt"}


@dataclass
class RiverGraph:
    """Nodes, constants, inputs and outputs as they are added; tests change them to break rules."""

    activation: int = TensorProto.FLOAT16
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def input(self, name: str, kind: int, shape: list[str | int]) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, name: str, kind: int, shape: list[str | int]) -> None:
        self.outputs.append(helper.make_tensor_value_info(name, kind, shape))

    def weight(self, name: str, *shape: int, kind: int | None = None) -> str:
        """A constant of small random numbers, in the type of the activations."""
        values = (self.random.standard_normal(shape) * 0.05).astype(np.float32)
        tensor = helper.make_tensor(name, kind or self.activation, shape, values.ravel())
        self.constants.append(tensor)
        return name

    def packed(self, name: str, *shape: int) -> str:
        """A constant of random bytes, four to an int32."""
        words = self.random.integers(0, 2**32, shape, dtype=np.uint32).view(np.int32)
        self.constants.append(numpy_helper.from_array(words, name))
        return name

    def plugin(self, kind: str, name: str, inputs: list[str], outputs: list[str], **fields) -> None:
        self.nodes.append(helper.make_node(kind, inputs, outputs, name=name, **fields, **PLUGIN))

    def linear(
        self, name: str, x: str, n: int, k: int, flags: str | None, norm=False, residual=None,
        silu_mul=False,
    ) -> str:  # fmt: skip
        """Output name; without flags only the backbone bank is there."""
        groups = -(-k // GROUP)
        fields, inputs = {}, [x]
        if flags is None:
            fields["banks"] = 1
            inputs.append(self.weight(f"{name}.weight", n, k))
        else:
            fields |= {"group_size": GROUP, "zero_points": 1}
            inputs += [flags, self.weight(f"{name}.weight", n, k)]
            inputs.append(self.packed(f"{name}.qweight", n, groups * GROUP // 8))
            half = TensorProto.FLOAT16
            inputs.append(self.weight(f"{name}.scales", n, groups, kind=half))
            inputs.append(self.packed(f"{name}.zero_points", -(-n * groups // 4)))
        if norm:
            fields |= {"norm": 1, "norm_eps": 1e-5}
            inputs.append(self.weight(f"{name}.norm", k))
        if residual is not None:
            fields["residual"] = 1
            inputs.append(residual)
        if silu_mul:
            fields["silu_mul"] = 1
        self.plugin("RiverLinear", name, inputs, [f"{name}.y"], **fields)
        return f"{name}.y"

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "river", self.inputs, self.outputs, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def two_layers(activation: int = TensorProto.FLOAT16) -> RiverGraph:
    graph = RiverGraph(activation)
    h = graph.input("h", activation, ["batch", "seq", HIDDEN])
    past = graph.input("past_lengths", TensorProto.INT32, ["batch"])
    tau = graph.input("tau", TensorProto.FLOAT, [LAYERS])
    pinned = graph.input("pinned", TensorProto.INT32, [LAYERS])
    scope = graph.input("scope", TensorProto.INT32, [])
    directions = graph.input("directions", TensorProto.FLOAT, [LAYERS, HIDDEN])
    use_directions = graph.input("use_directions", TensorProto.INT32, [])
    cos, sin = (
        graph.weight(name, POSITIONS, HEAD_DIM // 2, kind=TensorProto.FLOAT)
        for name in ("rotary_cos", "rotary_sin")
    )
    flags, exited = None, []
    for layer in range(1, LAYERS + 1):
        caches = [
            graph.input(f"{kind}_{layer}", activation, ["batch", KV_HEADS, CAPACITY, HEAD_DIM])
            for kind in ("k_cache", "v_cache")
        ]
        at, width = f"layers.{layer}", (HEADS + 2 * KV_HEADS) * HEAD_DIM
        qkv = graph.linear(f"{at}.qkv", h, width, HIDDEN, flags, norm=True)
        graph.plugin(
            "RiverAttention",
            f"{at}.attention",
            [qkv, *caches, past, cos, sin],
            [f"{at}.attended", f"{caches[0]}_out", f"{caches[1]}_out"],
            num_heads=HEADS,
            num_kv_heads=KV_HEADS,
            scale=HEAD_DIM**-0.5,
        )
        for cache in caches:
            graph.output(f"{cache}_out", activation, ["batch", KV_HEADS, CAPACITY, HEAD_DIM])
        attended = graph.linear(
            f"{at}.o", f"{at}.attended", HIDDEN, HEADS * HEAD_DIM, flags, residual=h
        )
        middle = graph.linear(
            f"{at}.gate_up", attended, 2 * INTERMEDIATE, HIDDEN, flags, norm=True, silu_mul=True
        )
        out = graph.linear(f"{at}.down", middle, HIDDEN, INTERMEDIATE, flags, residual=attended)
        is_last = layer == LAYERS
        outputs = [f"{at}.exited", f"{at}.exit_layer"] + ([] if is_last else [f"{at}.use_river"])
        graph.plugin(
            "RiverGate",
            f"{at}.gate",
            [h, out, directions, use_directions, tau]
            + ([] if is_last else [pinned])
            + [scope, *exited],
            outputs,
            layer=layer,
            num_layers=LAYERS,
            direction=1,
        )
        exited, flags, h = outputs[:2], f"{at}.use_river", out
    graph.output(h, activation, ["batch", "seq", HIDDEN])
    graph.output(exited[1], TensorProto.INT32, ["batch", "seq"])
    return graph
