"""Weights as the native kernels read them: panels of 16 output columns (plugins/cpu/kernels.h)."""

import numpy as np
import torch

from builders.decoder import NORM_PATHS
from builders.layouts.modules import MODULES, BackboneFormat
from builders.narrowing import to_array
from builders.quantisers.base import RiverWeight
from builders.quantisers.integer import IntegerWeight, quantise_integer
from builders.weights import LayerWeights

PANEL = 16


def num_panels(rows: int, halves: int = 1) -> int:
    """Panels of a weight [rows, K] whose halves are padded apart."""
    return halves * -(-(rows // halves) // PANEL)


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
            tensors[f"{path}.bias_panels"] = _panels(weights.biases[short].numpy(), halves).ravel()
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


def panel_rows(weight: np.ndarray, halves: int = 1) -> np.ndarray:
    """[N, K] float32 as [P, K, 16]."""
    return _panels(weight, halves).transpose(0, 2, 1)


def panel_head_tensors(head: IntegerWeight) -> dict[str, np.ndarray]:
    """A 4- or 8-bit LM head."""
    parts = quantised_panels(
        head.codes.numpy(), head.scales.numpy(), head.zero_points.numpy(), head.bits
    )
    return {f"lm_head.{part}": value for part, value in parts.items()}


def quantised_panels(
    codes: np.ndarray,  # [N, groups, group_size] uint8
    scales: np.ndarray,  # [N, groups] float32
    zero_points: np.ndarray | None,  # [N, groups] uint8
    bits: int,
    halves: int = 1,
) -> dict[str, np.ndarray]:
    """qweight [P, groups, group_size / 4, 8 * bits] uint8, scales and zero points [P, groups, 16].

    A row of qweight holds four inputs of 16 columns. With 4 bits, columns 0..7 lie in the low
    halves of its bytes and columns 8..15 in the high ones.
    """
    groups, size = codes.shape[1:]
    panels = _panels(codes, halves).reshape(-1, PANEL, groups, size // 4, 4)
    fours = panels.transpose(0, 2, 3, 1, 4)  # [P, groups, group_size / 4, 16, 4]
    if bits == 4:
        fours = fours[..., :8, :] | (fours[..., 8:, :] << 4)
    parts = {
        "qweight_panels": fours.reshape(*fours.shape[:3], 8 * bits),
        "scales_panels": _panels(scales, halves).transpose(0, 2, 1),
    }
    if zero_points is not None:
        parts["zero_points_panels"] = _panels(zero_points, halves).transpose(0, 2, 1)
    return parts


def _panels(rows: np.ndarray, halves: int) -> np.ndarray:
    """[N, ...] to [P, 16, ...], padded with zeros; panels of the halves take turns."""
    rest = rows.shape[1:]
    parts = []
    for part in np.split(rows, halves):
        padding = [(0, -len(part) % PANEL), *((0, 0) for _ in rest)]
        parts.append(np.pad(part, padding).reshape(-1, PANEL, *rest))
    return np.stack(parts, axis=1).reshape(-1, PANEL, *rest)
