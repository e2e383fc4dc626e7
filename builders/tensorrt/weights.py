"""One layer's weights as the arrays that a graph for TensorRT reads."""

import numpy as np
import torch

from builders.decoder import NORM_PATHS
from builders.layouts.modules import MODULES
from builders.narrowing import to_array
from builders.quantisers.base import SYMMETRIC_ZERO, RiverWeight
from builders.quantisers.integer import quantise_integer
from builders.river_bank import LayerBanks
from river_trt.manifest import TensorRTMode


def layer_arrays(
    layer: int, banks: LayerBanks, dtype: np.dtype, mode: TensorRTMode
) -> dict[str, np.ndarray]:
    """All that a layer (0-based) may need, by the names of the layout."""
    weights = banks.weights
    arrays: dict[str, np.ndarray] = {}
    for short, module in MODULES.items():
        path = f"layers.{layer}.{module}"
        weight = to_array(weights.linears[short], dtype, f"{path}.weight")
        arrays |= {f"{path}.weight": weight, f"{path}.weight_transposed": weight.T}
        if short in weights.biases:
            arrays[f"{path}.bias"] = to_array(weights.biases[short], dtype, f"{path}.bias")
        river = banks.river[short]
        parts = river_arrays(river, dtype, mode, path)
        arrays |= {f"{path}.{part}": value for part, value in parts.items()}
    for norm, values in weights.norms.items():
        path = NORM_PATHS.get(norm, norm)
        name = f"layers.{layer}.{path}.weight"
        arrays[name] = to_array(values, dtype, name)
    return arrays


def head_arrays(
    head: torch.Tensor,  # [vocab, hidden] in the checkpoint's type
    group_size: int,
    dtype: np.dtype,
    mode: TensorRTMode,
) -> dict[str, np.ndarray]:
    """A 4-bit LM head, stored as a river is."""
    quantised = quantise_integer(head, 4, group_size)
    river = RiverWeight.from_codes(
        quantised.codes, quantised.scales, quantised.zero_points, symmetric=False
    )
    return {
        f"lm_head.{part}": value
        for part, value in river_arrays(river, dtype, mode, "lm_head").items()
    }


def river_arrays(
    river: RiverWeight, dtype: np.dtype, mode: TensorRTMode, path: str
) -> dict[str, np.ndarray]:
    """path: the linear's, for what an error names."""
    return plugin_river(river, path) if mode == "plugin" else portable_river(river, dtype, path)


def plugin_river(river: RiverWeight, path: str) -> dict[str, np.ndarray]:
    """The dialect's bytes, four to an int32, and float16 scales (linear_plugin.h)."""
    rows = len(river.qweight)
    parts = {
        "qweight_int32": as_words(river.qweight.numpy()).reshape(rows, -1),
        "scales_float16": to_array(river.scales, np.dtype(np.float16), f"{path}.scales"),
    }
    if river.zero_points is not None:
        parts["zero_points_int32"] = as_words(river.zero_points.numpy())
    if river.pre_scale is not None:
        name = f"{path}.pre_scale"
        parts["pre_scale_float16"] = to_array(river.pre_scale, np.dtype(np.float16), name)
    return parts


def portable_river(river: RiverWeight, dtype: np.dtype, path: str) -> dict[str, np.ndarray]:
    """INT4 values about 0, [groups * group_size, N], and what the zero points add.

    y = x (codes - zero) scale = x (codes - 8) scale - groupsum(x) (zero - 8) scale, so
    DequantizeLinear needs no zero points and `offsets` [groups, N] carries them.
    """
    values = (river.codes().numpy().astype(np.int16) - SYMMETRIC_ZERO).reshape(
        len(river.qweight), -1
    )
    scales = river.scales
    parts = {
        "int4": pack_int4(values.T),
        "scales_transposed": to_array(scales.T, dtype, f"{path}.scales"),
    }
    if river.zero_points is not None:
        steps = SYMMETRIC_ZERO - river.zero_points.float()
        parts["offsets"] = to_array((steps * scales).T, dtype, f"{path}.offsets")
    if river.pre_scale is not None:
        parts["pre_scale"] = to_array(river.pre_scale, dtype, f"{path}.pre_scale")
    return parts


def pack_int4(values: np.ndarray) -> np.ndarray:
    """Integers -8..7 to bytes, two along the last axis, the first one low."""
    nibbles = values.astype(np.uint8) & 0xF
    packed: np.ndarray = nibbles[..., ::2] | (nibbles[..., 1::2] << 4)
    return packed


def as_words(values: np.ndarray) -> np.ndarray:
    """Bytes as int32, padded with zeros to whole words."""
    flat = np.ascontiguousarray(values).reshape(-1)
    return np.pad(flat, (0, -flat.size % 4)).view(np.int32)
