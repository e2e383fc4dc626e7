"""Weights as the native kernels read them: panels of 16 output columns (plugins/cpu/kernels.h)."""

import numpy as np
import torch

from builders.decoder import NORM_PATHS
from builders.layouts.modules import MODULES, BackboneFormat
from builders.narrowing import to_array
from builders.quantisers.base import RiverWeight
from builders.quantisers.integer import IntegerWeight, quantise_integer
from builders.weights import LayerWeights
from river_trt.weight_panels import panel_rows, quantised_panels, stack_panels

RIVER_HEAD = "river_head"


def panel_layer_tensors(
    layer: int,
    weights: LayerWeights,
    river: dict[str, RiverWeight],
    backbone: BackboneFormat,
    gate_up_halves: int = 2,  # panels of gate and of up take turns: one thread has both of a value
) -> dict[str, np.ndarray]:
    """Everything a layer (0-based) may need, under the names of the layout."""
    tensors: dict[str, np.ndarray] = {}
    for short, module in MODULES.items():
        path = f"layers.{layer}.{module}"
        halves = gate_up_halves if short == "gate_up" else 1
        tensors |= _backbone_panels(path, weights.linears[short], backbone, halves)
        if short in weights.biases:
            tensors[f"{path}.bias_panels"] = stack_panels(
                weights.biases[short].numpy(), halves
            ).ravel()
        bank = river[short]
        zero_points = None if bank.zero_points is None else bank.zero_points.numpy()
        parts = quantised_panels(bank.codes().numpy(), bank.scales.numpy(), zero_points, 4, halves)
        tensors |= {f"{path}.{part}": value for part, value in parts.items()}
        if bank.pre_scale is not None:
            tensors[f"{path}.pre_scale"] = bank.pre_scale.numpy()
    for norm, weight in weights.norms.items():
        tensors[f"layers.{layer}.{NORM_PATHS.get(norm, norm)}.weight"] = weight.numpy()
    return tensors


def _backbone_panels(
    path: str, weight: torch.Tensor, backbone: BackboneFormat, halves: int
) -> dict[str, np.ndarray]:
    if backbone.bits == 8:
        integer = quantise_integer(weight, 8, backbone.group_size)
        arrays = (integer.codes.numpy(), integer.scales.numpy(), integer.zero_points.numpy())
        parts = quantised_panels(*arrays, 8, halves)
        return {f"{path}.backbone_{part}": value for part, value in parts.items()}
    panels = panel_rows(weight.numpy(), halves)
    if backbone.bits == 32:
        return {f"{path}.weight_panels": panels}
    halved = to_array(torch.from_numpy(panels), np.dtype(np.float16), f"{path}.weight")
    return {f"{path}.weight_float16_panels": halved}


def panel_head_tensors(head: IntegerWeight) -> dict[str, np.ndarray]:
    """A 4- or 8-bit LM head."""
    parts = quantised_panels(
        head.codes.numpy(), head.scales.numpy(), head.zero_points.numpy(), head.bits
    )
    return {f"lm_head.{part}": value for part, value in parts.items()}


def panel_river_head_tensors(rare: RiverWeight) -> dict[str, np.ndarray]:
    """An LM head's river, of the rare tokens."""
    assert rare.zero_points is not None and rare.pre_scale is not None
    parts = quantised_panels(rare.codes().numpy(), rare.scales.numpy(), rare.zero_points.numpy(), 4)
    parts["pre_scale"] = rare.pre_scale.numpy()
    return {f"{RIVER_HEAD}.{part}": value for part, value in parts.items()}
