"""The GPU: bfloat16 activations, weights as the plugin's kernels read them (plugins/kernels).

The linear's kernel takes in what stands around it, so that a layer is few launches:

    rms_norm -- linear             fused_linear(norm_weight)
    linear -- add(residual)        fused_linear(residual)
    linear -- chunk -- silu, mul   fused_linear(silu_mul)

In a recorded program the gate gives the next layer its flags, and no norm measures what the kernel
before it has seen:

    gate -- exited -- and(not pinned)        step_gate(pinned_next)
    o or gate -- norm in qkv or gate_up      sum_squares of the one are the other's

It has inputs beyond river_trt.spec's: what its operators work in, and which cache
row each row of a step has. Its river banks are packed when it is loaded (plugins/kernels/packed.h):

    qweight, scales, zero_points -- pack -- packed_linear
"""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx

from builders.aotinductor.program import LinearNode, Shape, Weights
from builders.decoder import NORM_PATHS
from builders.job import Banks
from builders.layouts.modules import MODULES
from builders.narrowing import narrow
from builders.quantisers.base import RiverWeight
from builders.quantisers.integer import quantise_integer
from builders.river_bank import LayerBanks
from builders.weights import SharedWeights
from river_trt.backends.torch.session import (
    EXTRA_INPUTS,
    GATE_SQUARES,
    O_SQUARES,
    QKV_SQUARES,
)

HEAD_BITS = (4, 8, 16)
HIGH = 16  # a step of the upper four bits of an 8-bit code
PACKED_GROUPS, TILE = (64, 128), 16  # of a packed bank: its groups, outputs of a tile
DEFAULT_VARIANT = -1  # of the packed bank's kernel
BANK = "river_trt.bank"  # of a node's meta
# Places of fused_linear's arguments.
NORM_WEIGHT, NORM_EPS, SILU_MUL, RESIDUAL = range(8, 12)
PACKED_SQUARES, PACKED_SQUARES_OUT, GATE_SQUARES_OUT = 14, 15, 10  # of packed_linear, of step_gate


@dataclass(frozen=True, slots=True)
class CudaDevice:
    banks: Banks
    tied: bool  # the head is the embedding
    head_bits: int = 16  # one of HEAD_BITS
    head_group_size: int = 128
    is_recorded: bool = False
    rounds: bool = False  # the river's inputs, to 8 bits a group; of packed banks
    name: str = "cuda"
    activation: torch.dtype = torch.bfloat16

    def linear(self, graph: fx.Graph, weights: Weights, old: LinearNode) -> fx.Node:
        (n, k), path = old.shape, old.path
        groups = -(-k // old.group_size)
        chooses = self.banks == "both" and old.layer > 0
        weight = qweight = scales = zero_points = pre_scale = bias = None
        if self.banks != "river":
            weight = weights.get(f"{path}.weight", (n, k), self.activation)
        if self.banks == "river" or chooses:
            codes = (n, groups, old.group_size // 2)
            qweight = weights.get(f"{path}.qweight", codes, torch.uint8)
            scales = weights.get(f"{path}.scales", (n, groups), torch.float16)
            if old.has_zero_points:
                zero_points = weights.get(f"{path}.zero_points", (n, groups), torch.uint8)
            if old.has_pre_scale:
                pre_scale = weights.get(f"{path}.pre_scale", (k,), torch.float16)
        if old.has_bias:
            bias = weights.get(f"{path}.bias", (n,), self.activation)
        use_river = old.use_river if chooses else None
        banks = (weight, qweight, scales, zero_points, pre_scale, bias)
        args = (old.x, use_river, *banks, None, 0.0, False, None)
        return _fused_linear(graph, args, Bank(path, n, k, old.group_size))

    def head(self, graph: fx.Graph, weights: Weights, x: fx.Node, shape: Shape) -> fx.Node:
        if self.head_bits == 16:
            weight = weights.get("embedding" if self.tied else "lm_head", shape, self.activation)
            logits = graph.call_function(torch.ops.aten.linear.default, (x, weight))
        elif self.head_bits == 4:
            logits = self._integer_head(graph, weights, x, "lm_head", shape, None)
        else:
            # An 8-bit code is two of 4 bits: the upper half first, then the lower one onto it.
            high = self._integer_head(graph, weights, x, "lm_head.high", shape, None)
            with graph.inserting_after(high):
                logits = self._integer_head(graph, weights, x, "lm_head.low", shape, high)
        with graph.inserting_after(logits):
            return graph.call_function(torch.ops.aten.to.dtype, (logits, torch.float32))

    def _integer_head(
        self,
        graph: fx.Graph,
        weights: Weights,
        x: fx.Node,
        path: str,
        shape: Shape,
        onto: fx.Node | None,
    ) -> fx.Node:
        n, groups = shape[0], -(-shape[1] // self.head_group_size)
        river = (
            weights.get(f"{path}.qweight", (n, groups, self.head_group_size // 2), torch.uint8),
            weights.get(f"{path}.scales", (n, groups), torch.float16),
            weights.get(f"{path}.zero_points", (n, groups), torch.uint8),
        )
        args = (x, None, None, *river, None, None, None, 0.0, False, onto)
        return _fused_linear(graph, args, Bank(path, shape[0], shape[1], self.head_group_size))

    def finish(self, graph: fx.Graph) -> None:
        for node in graph.find_nodes(op="call_function", target=_target()):
            _fuse_norm(node)
            if not _fuse_silu(graph, node):
                _fuse_residual(graph, node)
        if self.is_recorded:
            self._finish_recorded(graph)

    def _finish_recorded(self, graph: fx.Graph) -> None:
        """What Inductor does not take: operators that change optional arguments."""
        inputs: dict[str, fx.Node] = {}
        last = graph.find_nodes(op="placeholder")[-1]
        for name in EXTRA_INPUTS:
            with graph.inserting_after(last):
                inputs[name] = last = graph.placeholder(name)
        ops = torch.ops.river_trt_cuda
        for node in graph.find_nodes(op="call_function", target=ops.gate.default):
            _fuse_flags(graph, node, inputs["gate_workspace"])
        extra = (inputs["attention_workspace"], inputs["cache_rows"])
        for node in graph.find_nodes(op="call_function", target=ops.attention.default):
            node.args = (*node.args, *extra)
        graph.eliminate_dead_code()
        for node in graph.find_nodes(op="call_function", target=_target()):
            _use_packed(graph, node, self.rounds)
        for node in graph.find_nodes(op="call_function", target=ops.packed_linear.default):
            _share_squares(node, inputs)

    def buffer_dtype(self, name: str) -> torch.dtype:
        return torch.float32 if name.startswith("rotary_") else self.activation

    def layer_tensors(self, layer: int, banks: LayerBanks) -> dict[str, Tensor]:
        tensors: dict[str, Tensor | None] = {}
        for short, module in MODULES.items():
            path, river = f"layers.{layer}.{module}", banks.river[short]
            tensors[f"{path}.weight"] = self._rounded(banks.weights.linears[short], path)
            tensors[f"{path}.bias"] = self._rounded(banks.weights.biases.get(short), path)
            tensors[f"{path}.qweight"] = river.qweight
            tensors[f"{path}.scales"] = narrow(river.scales, torch.float16, f"{path}.scales")
            tensors[f"{path}.zero_points"] = river.zero_points
            if river.pre_scale is not None:
                name = f"{path}.pre_scale"
                tensors[name] = narrow(river.pre_scale, torch.float16, name)
        for norm, weight in banks.weights.norms.items():
            name = f"layers.{layer}.{NORM_PATHS.get(norm, norm)}.weight"
            tensors[name] = self._rounded(weight, name)
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}

    def shared_tensors(self, shared: SharedWeights) -> dict[str, Tensor]:
        tensors = {
            "embedding": narrow(shared.embedding, self.activation, "embedding"),
            "norm.weight": narrow(shared.final_norm, self.activation, "norm.weight"),
        }
        if self.head_bits == 16:
            return tensors | {"lm_head": narrow(shared.lm_head, self.activation, "lm_head")}
        head = quantise_integer(shared.lm_head, self.head_bits, self.head_group_size)
        if self.head_bits == 4:
            return tensors | _packed("lm_head", head.codes, head.scales, head.zero_points)
        codes, zeros = head.codes, head.zero_points
        high = _packed("lm_head.high", codes // HIGH, head.scales * HIGH, zeros // HIGH)
        return tensors | high | _packed("lm_head.low", codes % HIGH, head.scales, zeros % HIGH)

    def _rounded(self, weight: Tensor | None, name: str) -> Tensor | None:
        return None if weight is None else narrow(weight, self.activation, name)


def _packed(path: str, codes: Tensor, scales: Tensor, zero_points: Tensor) -> dict[str, Tensor]:
    """4-bit codes [N, groups, group_size] as the river's linear reads them."""
    weight = RiverWeight.from_codes(codes, scales, zero_points, symmetric=False)
    assert weight.zero_points is not None
    return {
        f"{path}.qweight": weight.qweight,
        f"{path}.scales": narrow(weight.scales, torch.float16, f"{path}.scales"),
        f"{path}.zero_points": weight.zero_points,
    }


def _target() -> Any:
    return torch.ops.river_trt_cuda.fused_linear.default


@dataclass(frozen=True, slots=True)
class Bank:
    """What the arguments of a fused_linear do not tell of its river."""

    path: str
    n: int
    k: int
    group_size: int

    @property
    def is_packable(self) -> bool:
        return self.group_size in PACKED_GROUPS and self.k % 8 == 0


def _fused_linear(graph: fx.Graph, args: Sequence[Any], bank: Bank) -> fx.Node:
    node = graph.call_function(_target(), tuple(args))
    node.meta[BANK] = bank
    return node


def _fuse_norm(node: fx.Node) -> None:
    norm = node.args[0]
    if isinstance(norm, fx.Node) and norm.target == torch.ops.aten.rms_norm.default:
        x, _, weight, eps = norm.args
        node.update_arg(0, x)
        node.update_arg(NORM_WEIGHT, weight)
        node.update_arg(NORM_EPS, eps)


def _fuse_residual(graph: fx.Graph, node: fx.Node) -> None:
    users = list(node.users)
    if len(users) != 1 or users[0].target != torch.ops.aten.add.Tensor:
        return
    (add,) = users
    (residual,) = (arg for arg in add.args if arg is not node)
    with graph.inserting_before(add):
        args = [*node.args]
        args[RESIDUAL] = residual
        add.replace_all_uses_with(_fused_linear(graph, args, node.meta[BANK]))


def _fuse_silu(graph: fx.Graph, node: fx.Node) -> bool:
    users = list(node.users)
    if len(users) != 1 or users[0].target != torch.ops.aten.chunk.default:
        return False
    halves = {user.args[1]: user for user in users[0].users if user.target is getitem}
    (silu,) = halves[0].users
    (mul,) = halves[1].users
    if silu.target != torch.ops.aten.silu.default or mul.args != (silu, halves[1]):
        return False
    with graph.inserting_before(mul):
        args = [*node.args]
        args[SILU_MUL] = True
        mul.replace_all_uses_with(_fused_linear(graph, args, node.meta[BANK]))
    return True


def _fuse_flags(graph: fx.Graph, gate: fx.Node, workspace: fx.Node) -> None:
    """gate(...) to step_gate(...), which also says who uses the river in the next layer."""
    *args, tau, scope, layer = gate.args
    (pinned,) = (node for node in graph.find_nodes(op="placeholder") if node.target == "pinned")
    outputs = {user.args[1]: user for user in gate.users if user.target is getitem}
    flags = [user for user in outputs[0].users if user.target == torch.ops.aten.__and__.Tensor]
    assert len(flags) <= 1 and isinstance(layer, int)
    with graph.inserting_before(gate):
        # Behind the last layer nobody looks: any layer's pin will do.
        following = layer if flags else layer - 1
        pin = graph.call_function(torch.ops.aten.select.int, (pinned, 0, following))
        step_gate = graph.call_function(
            torch.ops.river_trt_cuda.step_gate.default,
            (*args, tau, pin, scope, layer, None, workspace),
        )
        use_river = graph.call_function(getitem, (step_gate, 2))
    for flag in flags:
        flag.replace_all_uses_with(use_river)
    gate.replace_all_uses_with(step_gate)


def _use_packed(graph: fx.Graph, node: fx.Node, rounds: bool) -> None:
    """fused_linear(... qweight, scales, zero_points ...) to packed_linear over their pack.

    Of the backbone alone too: one kernel, so that a token on it rounds as in the plain model.
    """
    bank = node.meta[BANK]
    x, use_river, weight, qweight, scales, zero_points, pre_scale, bias, *rest = node.args
    norm_weight, norm_eps, silu_mul, residual = rest
    # Of silu_mul the two halves must each be whole tiles.
    if not bank.is_packable or (silu_mul and bank.n % (2 * TILE)):
        return
    # The gate of the layer before ran just before qkv, and two launches before the others.
    flags_early = not bank.path.endswith(MODULES["qkv"])
    ops = torch.ops.river_trt_cuda
    with graph.inserting_before(node):
        packed = None
        if qweight is not None:
            packed = graph.call_function(ops.pack.default, (qweight, scales, zero_points, bank.k))
        args = (
            *(x, use_river, weight, packed, bank.n, bank.group_size, pre_scale, bias),
            *(norm_weight, norm_eps, silu_mul, residual, rounds, flags_early, None, None),
            DEFAULT_VARIANT,
        )
        node.replace_all_uses_with(graph.call_function(ops.packed_linear.default, args))
    graph.erase_node(node)


def _share_squares(node: fx.Node, inputs: dict[str, fx.Node]) -> None:
    """Where a packed_linear begins with a norm, take its sums of squares from what wrote x."""
    x = node.args[0]
    assert isinstance(x, fx.Node)
    ops = torch.ops.river_trt_cuda
    if node.args[NORM_WEIGHT] is None:
        return
    for gate in x.users:
        if gate.target == ops.step_gate.default and gate.args[1] is x:
            gate.update_arg(GATE_SQUARES_OUT, inputs[GATE_SQUARES])
            node.update_arg(PACKED_SQUARES, inputs[QKV_SQUARES])
            return
    if x.target == ops.packed_linear.default and not x.args[SILU_MUL]:
        x.update_arg(PACKED_SQUARES_OUT, inputs[O_SQUARES])
        node.update_arg(PACKED_SQUARES, inputs[O_SQUARES])
