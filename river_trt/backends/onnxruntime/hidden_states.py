"""An engine's hidden states, which no engine returns: its graph with the gates' inputs as outputs.

The weights file is read where it lies; only the graph, a few hundred kilobytes, is changed and
handed to ONNX Runtime in memory. What lies behind the last layer that is asked for is cut off.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper

from river_trt.backends.base import Step
from river_trt.backends.onnxruntime.cache_slots import slot_width
from river_trt.backends.onnxruntime.location import with_weights
from river_trt.backends.policy_buffers import PolicyBuffers
from river_trt.native_library import BLOCKS, DOMAIN
from river_trt.spec import ExitPolicy, ModelShape, cache_names


class GraphHiddenStates:
    """Full-depth hidden states of a text, h_0 .. h_last.

    last: at most L - 1, because the last layer has no gate to read.
    """

    def __init__(
        self,
        file: Path,
        weights: Path,
        shape: ModelShape,
        settings: ort.SessionOptions,
        cache_dtype: str,
        last: int,
    ) -> None:
        self.shape = shape
        self.cache_dtype = np.dtype(cache_dtype)
        self.slot_width = slot_width(cache_dtype, shape.head_dim)
        model = onnx.load(file, load_external_data=False)
        self.names = gate_inputs(model.graph, shape.num_layers)[: last + 1]
        axes: list[str | int | None] = ["batch", "seq", shape.hidden_size]
        values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, axes) for n in self.names]
        cut(model.graph, values)
        self.inputs = {value.name for value in model.graph.input}
        source = with_weights(model.SerializeToString(), weights, settings)
        self.session = ort.InferenceSession(source, settings, providers=["CPUExecutionProvider"])

    def __call__(
        self,
        ids: np.ndarray,  # [seq] int64
    ) -> np.ndarray:
        """float32 [last + 1, seq, hidden]."""
        shape = self.shape
        cache = np.zeros((1, shape.num_kv_heads, len(ids), self.slot_width), self.cache_dtype)
        full_depth = ExitPolicy.full_depth(shape.num_layers)
        # Logits are of no interest here, and those of one position are the least there is.
        step = Step(ids[None], 0, np.zeros(1, np.int32), np.zeros(1, np.int64), full_depth)
        inputs = step.inputs | PolicyBuffers.of(full_depth, shape.hidden_size).arrays
        inputs |= dict.fromkeys(cache_names(shape.num_layers), cache)
        inputs = {name: value for name, value in inputs.items() if name in self.inputs}
        found: list[np.ndarray] = self.session.run(self.names, inputs)
        return np.concatenate(found)


def gate_inputs(graph: GraphProto, num_layers: int) -> list[str]:
    """Tensors h_0 .. h_(L-1): each gate's reference is the block's input (builders/.../gate.py).

    The native operator (plugins/cpu/block.h) gives each block's output first.
    """
    kinds = BLOCKS.values()
    blocks = [node for node in graph.node if node.op_type in kinds and node.domain == DOMAIN]
    if blocks:
        return [blocks[0].input[0], *(block.output[0] for block in blocks[1:-1])]
    inputs = {
        node.output[0]: node.input[2]
        for node in _nodes(graph.node)
        if node.op_type == "Where" and node.input[0] == "use_directions"
    }
    names = [inputs[f"gate.{layer}/reference"] for layer in range(1, num_layers)]
    (last,) = {
        node.input[0].removesuffix("/selected")
        for node in _nodes(graph.node)
        if node.output[0] == f"gate.{num_layers - 1}/h_out_unit"
    }
    return [*names, last]


def cut(graph: GraphProto, outputs: list[ValueInfoProto]) -> None:
    """Leave what these outputs need: nodes, weights and inputs."""
    needed = {output.name for output in outputs}
    nodes: list[NodeProto] = []
    for node in reversed(graph.node):  # which are in order
        if not needed.isdisjoint(node.output):
            nodes.insert(0, node)
            needed.update(*(inner.input for inner in _nodes([node])))
    kept = GraphProto(name=graph.name, node=nodes, output=outputs)
    kept.initializer.extend(item for item in graph.initializer if item.name in needed)
    kept.input.extend(item for item in graph.input if item.name in needed)
    graph.CopyFrom(kept)


def _nodes(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """These, and those of every branch in them."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g.node)
