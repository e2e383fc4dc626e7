"""The GPU: bfloat16 activations, weights as the plugin's kernels read them (plugins/kernels).

The linear's kernel takes in what stands around it, so that a layer is few launches:

    rms_norm -- linear             fused_linear(norm_weight)
    linear -- add(residual)        fused_linear(residual)
    linear -- chunk -- silu, mul   fused_linear(silu_mul)
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
from builders.river_bank import LayerBanks
from builders.weights import SharedWeights

HEAD_BITS = 16
# Places of fused_linear's arguments.
NORM_WEIGHT, NORM_EPS, SILU_MUL, RESIDUAL = range(8, 12)


@dataclass(frozen=True, slots=True)
class CudaDevice:
    banks: Banks
    tied: bool  # the head is the embedding
    head_bits: int = HEAD_BITS
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
        return _fused_linear(graph, (old.x, use_river, *banks, None, 0.0, False, None))

    def head(self, graph: fx.Graph, weights: Weights, x: fx.Node, shape: Shape) -> fx.Node:
        name = "embedding" if self.tied else "lm_head"
        weight = weights.get(name, shape, self.activation)
        logits = graph.call_function(torch.ops.aten.linear.default, (x, weight))
        with graph.inserting_after(logits):
            return graph.call_function(torch.ops.aten.to.dtype, (logits, torch.float32))

    def finish(self, graph: fx.Graph) -> None:
        for node in graph.find_nodes(op="call_function", target=_target()):
            _fuse_norm(node)
            if not _fuse_silu(graph, node):
                _fuse_residual(graph, node)

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
        return {
            "embedding": narrow(shared.embedding, self.activation, "embedding"),
            "lm_head": narrow(shared.lm_head, self.activation, "lm_head"),
            "norm.weight": narrow(shared.final_norm, self.activation, "norm.weight"),
        }

    def _rounded(self, weight: Tensor | None, name: str) -> Tensor | None:
        return None if weight is None else narrow(weight, self.activation, name)


def _target() -> Any:
    return torch.ops.river_trt_cuda.fused_linear.default


def _fused_linear(graph: fx.Graph, args: Sequence[Any]) -> fx.Node:
    return graph.call_function(_target(), tuple(args))


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
        add.replace_all_uses_with(_fused_linear(graph, args))


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
        mul.replace_all_uses_with(_fused_linear(graph, args))
    return True
