"""The CPU: float32 activations, weights in the panels of plugins/cpu.

    x, use_river -- linear (weight_panels | qweight_panels, scales_panels, zero_points_panels)

Layer 1 never uses its river, and an engine of one bank has no choice to make: no use_river there.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from builders.aotinductor.program import LinearNode, Shape, Weights
from builders.job import Banks
from builders.layouts.modules import BackboneFormat
from builders.layouts.panels import panel_head_tensors, panel_layer_tensors
from builders.quantisers.integer import quantise_integer
from builders.river_bank import LayerBanks
from builders.weights import SharedWeights
from river_trt.weight_panels import PANEL, num_panels, panel_rows

HEAD_BITS = (4, 8, 32)


@dataclass(frozen=True, slots=True)
class CpuDevice:
    banks: Banks
    rounds: bool  # the river's inputs, to 8 bits a group
    head_bits: int  # one of HEAD_BITS
    head_group_size: int
    embedding_dtype: torch.dtype
    name: str = "cpu"
    activation: torch.dtype = torch.float32

    def linear(self, graph: fx.Graph, weights: Weights, old: LinearNode) -> fx.Node:
        n, k = old.shape
        panels, path = num_panels(n), old.path
        chooses = self.banks == "both" and old.layer > 0
        weight = pre_scale = bias = None
        river: list[fx.Node | None] = [None] * 3
        if self.banks != "river":
            weight = weights.get(f"{path}.weight_panels", (panels, k, PANEL), torch.float32)
        if self.banks == "river" or chooses:
            river = _quantised(weights, path, panels, k, old.group_size, 4, old.has_zero_points)
            if old.has_pre_scale:
                pre_scale = weights.get(f"{path}.pre_scale", (k,), torch.float32)
        if old.has_bias:
            bias = weights.get(f"{path}.bias_panels", (panels * PANEL,), torch.float32)
        use_river = old.use_river if chooses else None
        return _call(graph, old.x, use_river, weight, river, pre_scale, bias, n, self.rounds)

    def head(self, graph: fx.Graph, weights: Weights, x: fx.Node, shape: Shape) -> fx.Node:
        vocab, hidden = shape
        panels = num_panels(vocab)
        weight = None
        river: list[fx.Node | None] = [None] * 3
        if self.head_bits == 32:
            weight = weights.get("lm_head.weight_panels", (panels, hidden, PANEL), torch.float32)
        else:
            size, bits = self.head_group_size, self.head_bits
            river = _quantised(weights, "lm_head", panels, hidden, size, bits, True)
        return _call(graph, x, None, weight, river, None, None, vocab, self.rounds)

    def finish(self, graph: fx.Graph) -> None:
        """Inductor fuses norms, activations and adds into loops of its own."""

    def buffer_dtype(self, name: str) -> torch.dtype:
        return self.embedding_dtype if name == "embedding" else torch.float32

    def layer_tensors(self, layer: int, banks: LayerBanks) -> dict[str, Tensor]:
        backbone = BackboneFormat(32, self.head_group_size)
        tensors = panel_layer_tensors(layer, banks.weights, banks.river, backbone, gate_up_halves=1)
        return _dense(tensors)

    def shared_tensors(self, shared: SharedWeights) -> dict[str, Tensor]:
        if self.head_bits == 32:
            rows = panel_rows(shared.lm_head.float().numpy())
            head = {"lm_head.weight_panels": rows}
        else:
            head = panel_head_tensors(
                quantise_integer(shared.lm_head, self.head_bits, self.head_group_size)
            )
        return {"embedding": shared.embedding, "norm.weight": shared.final_norm} | _dense(head)


def _dense(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()}


def _call(graph: fx.Graph, x: fx.Node, *args: Any) -> fx.Node:
    use_river, weight, river, *rest = args
    return graph.call_function(
        torch.ops.river_trt_cpu.linear.default, (x, use_river, weight, *river, *rest)
    )


def _quantised(
    weights: Weights, path: str, panels: int, k: int, size: int, bits: int, asymmetric: bool
) -> list[fx.Node | None]:
    """qweight, scales, zero_points."""
    groups = -(-k // size)
    codes, grid = (panels, groups, size // 4, 8 * bits), (panels, groups, PANEL)
    zero_points = None
    if asymmetric:
        zero_points = weights.get(f"{path}.zero_points_panels", grid, torch.uint8)
    return [
        weights.get(f"{path}.qweight_panels", codes, torch.uint8),
        weights.get(f"{path}.scales_panels", grid, torch.float32),
        zero_points,
    ]
