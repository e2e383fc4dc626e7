"""The traced program rewritten for a device: its operators, its buffers, caches in place.

    linear(weight, qweight, ...)             the device's linear over its own weights
    embedding(ids)                           embedding(ids), widened to the activations' type
    attention(...) -> out, k_cache, v_cache  attention(...) -> out: the caches are changed
    linear(h, lm_head)                       the device's head
    outputs logits, exit_layer, caches       outputs logits, exit_layer

The rewritten program takes the inputs of river_trt.spec flat, in their order.
"""

import copy
from dataclasses import dataclass
from operator import getitem
from typing import Protocol, TypeAlias

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from builders.graph import linear
from builders.quiet import quietly
from builders.river_bank import LayerBanks
from builders.weights import SharedWeights

Shape = tuple[int, ...]
DIALECT = torch.ops.river_trt


class Weights:
    """The buffers of a program under construction. Asking twice for a name gives one node."""

    def __init__(self, graph: fx.Graph) -> None:
        self.planned: dict[str, Planned] = {}
        self._graph, self._first = graph, next(iter(graph.nodes))
        self._nodes: dict[str, fx.Node] = {}

    def get(self, name: str, shape: Shape, dtype: torch.dtype) -> fx.Node:
        planned = Planned(shape, dtype)
        if name not in self._nodes:
            self.planned[name] = planned
            with self._graph.inserting_before(self._first):
                self._nodes[name] = self._graph.create_node("get_attr", name)
        assert self.planned[name] == planned, name
        return self._nodes[name]


@dataclass(frozen=True, slots=True)
class Planned:
    """A buffer without its data."""

    shape: Shape
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        return int(torch.Size(self.shape).numel()) * self.dtype.itemsize


LinearNode: TypeAlias = linear.LinearNode[fx.Node]


class Device(Protocol):
    """What differs between devices: operators, layout and types of the weights."""

    @property
    def name(self) -> str:
        """cpu or cuda; its operators are those of the namespace river_trt_<name>."""
        ...

    @property
    def activation(self) -> torch.dtype: ...

    @property
    def rounds(self) -> bool:
        """Whether the river's inputs are rounded to 8 bits a group."""
        ...

    def linear(self, graph: fx.Graph, weights: Weights, old: LinearNode) -> fx.Node: ...

    def head(self, graph: fx.Graph, weights: Weights, x: fx.Node, shape: Shape) -> fx.Node:
        """float32 logits of the rows x; shape: [vocab, hidden]."""
        ...

    def finish(self, graph: fx.Graph) -> None:
        """Fuse what the device's operators take in; what is unused by then is removed."""
        ...

    def buffer_dtype(self, name: str) -> torch.dtype:
        """Of the embedding, a norm, a table over positions."""
        ...

    def layer_tensors(self, layer: int, banks: LayerBanks) -> dict[str, Tensor]:
        """Everything that a layer (0-based) may need, under the names of the buffers."""
        ...

    def shared_tensors(self, shared: SharedWeights) -> dict[str, Tensor]:
        """Embedding, final norm, head."""
        ...

    @property
    def head_bits(self) -> int: ...


@dataclass(frozen=True, slots=True, eq=False)
class DeviceProgram:
    """A program for a device. Its buffers are on the meta device."""

    module: fx.GraphModule
    planned: dict[str, Planned]


def rewrite(program: ExportedProgram, device: Device) -> DeviceProgram:
    """The program of `tracing.trace` for a device."""
    with quietly():  # of torch's own future
        # A copy belongs to no module, so it may name buffers that the traced one does not have.
        graph = copy.deepcopy(program.module(check_guards=False).graph)
    buffers = dict(program.named_buffers())
    weights = Weights(graph)
    ops = getattr(torch.ops, f"river_trt_{device.name}")
    for node in list(graph.nodes):
        with graph.inserting_after(node):
            if node.target == DIALECT.linear.default:
                banked = device.linear(graph, weights, _linear_node(node, buffers))
                node.replace_all_uses_with(banked)
            elif node.target == DIALECT.gate.default:
                node.replace_all_uses_with(graph.call_function(ops.gate.default, node.args))
            elif node.target == DIALECT.attention.default:
                attended = graph.call_function(ops.attention.default, node.args)
                _output(node, 0).replace_all_uses_with(attended)
            elif node.target == torch.ops.aten.linear.default:
                x, weight = node.args
                assert weight.target == "lm_head", "every other linear is the dialect's"
                shape = tuple(buffers["lm_head"].shape)
                node.replace_all_uses_with(device.head(graph, weights, x, shape))
            elif node.target == torch.ops.aten.embedding.default:
                _widen(graph, node, device.activation)
    outputs = graph.output_node().args[0]
    assert isinstance(outputs, tuple)
    graph.output_node().args = (outputs[:2],)  # logits, exit_layer
    device.finish(graph)
    graph.eliminate_dead_code()
    graph.set_codegen(fx.graph.CodeGen())  # flat inputs
    for node in graph.find_nodes(op="get_attr"):
        if node.target not in weights.planned:  # a buffer of the traced program, as it is
            shape = tuple(buffers[node.target].shape)
            weights.planned[node.target] = Planned(shape, device.buffer_dtype(node.target))
    used = {node.target for node in graph.find_nodes(op="get_attr")}
    planned = {name: weights.planned[name] for name in sorted(used)}
    return DeviceProgram(fx.GraphModule(holder(planned, "meta"), graph), planned)


def holder(planned: dict[str, Planned], device: str) -> nn.Module:
    """A module with these buffers, under their paths; their values are not set."""
    root = nn.Module()
    for path, buffer in planned.items():
        *parents, name = path.split(".")
        module = root
        for parent in parents:
            if parent not in module._modules:
                module.add_module(parent, nn.Module())
            module = module.get_submodule(parent)
        value = torch.empty(buffer.shape, dtype=buffer.dtype, device=device)
        module.register_buffer(name, value)
    return root


def _linear_node(node: fx.Node, buffers: dict[str, Tensor]) -> LinearNode:
    x, use_river, weight, qweight, _, zero_points, pre_scale, bias = node.args
    assert isinstance(x, fx.Node) and isinstance(use_river, fx.Node)
    assert isinstance(weight, fx.Node) and isinstance(qweight, fx.Node)
    return linear.LinearNode(
        path=str(weight.target).removesuffix(".weight"),
        x=x,
        use_river=use_river,
        shape=tuple(buffers[str(weight.target)].shape),
        group_size=2 * buffers[str(qweight.target)].shape[-1],
        has_zero_points=zero_points is not None,
        has_pre_scale=pre_scale is not None,
        has_bias=bias is not None,
    )


def _output(node: fx.Node, index: int) -> fx.Node:
    return next(user for user in node.users if user.target is getitem and user.args[1] == index)


def _widen(graph: fx.Graph, node: fx.Node, dtype: torch.dtype) -> None:
    widened = graph.call_function(torch.ops.aten.to.dtype, (node, dtype))
    node.replace_all_uses_with(widened, delete_user_cb=lambda user: user is not widened)
