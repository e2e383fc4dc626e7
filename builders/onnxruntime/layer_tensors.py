"""One layer's weights as the arrays that the engine's weights file holds."""

import numpy as np
import torch

from builders.decoder import NORM_PATHS
from builders.layouts.modules import MODULES, BackboneFormat
from builders.onnxruntime.emit import PRE_SCALED
from builders.quantisers.base import RiverWeight
from builders.quantisers.integer import IntegerWeight, quantise_integer
from builders.weights import LayerWeights

# The linear that reads a norm, where one does.
NORMED = {"input_norm": "qkv", "post_attention_norm": "gate_up"}


def layer_tensors(
    layer: int, weights: LayerWeights, river: dict[str, RiverWeight], backbone: BackboneFormat
) -> dict[str, np.ndarray]:
    """Everything a layer (0-based) may need, under the names of the layout."""
    tensors = {}
    for short, module in MODULES.items():
        path = f"layers.{layer}.{module}"
        if backbone.bits == 8:
            codes = quantise_integer(weights.linears[short], 8, backbone.group_size)
            tensors[f"{path}.backbone_qweight"] = codes.codes.numpy()
            tensors[f"{path}.backbone_scales"] = codes.scales.numpy()
            tensors[f"{path}.backbone_zero_points"] = codes.zero_points.numpy()
        else:
            tensors[f"{path}.weight_transposed"] = weights.linears[short].numpy().T
        if short in weights.biases:
            tensors[f"{path}.bias"] = weights.biases[short].numpy()
        tensors |= {f"{path}.{part}": value for part, value in _river(river[short]).items()}
    for norm, weight in weights.norms.items():
        name = f"layers.{layer}.{NORM_PATHS.get(norm, norm)}.weight"
        tensors[name] = weight.numpy()
        pre_scale = river[NORMED[norm]].pre_scale if norm in NORMED else None
        if pre_scale is not None:
            tensors[name + PRE_SCALED] = (weight * pre_scale).numpy()
    return tensors


def head_tensors(head: IntegerWeight) -> dict[str, np.ndarray]:
    """A 4- or 8-bit LM head."""
    codes = head.codes.numpy()
    eight_bits = int(head.bits) == 8
    return {
        "lm_head.qweight": codes if eight_bits else pack_nibbles(codes),
        "lm_head.scales": head.scales.numpy(),
        "lm_head.zero_points_packed": (
            head.zero_points.numpy() if eight_bits else pack_nibbles(head.zero_points.numpy())
        ),
    }


def pack_nibbles(codes: np.ndarray) -> np.ndarray:
    """Two 4-bit codes a byte along the last axis, the even one low; an odd count is padded."""
    if codes.shape[-1] % 2:
        codes = np.concatenate([codes, np.zeros((*codes.shape[:-1], 1), np.uint8)], axis=-1)
    packed: np.ndarray = codes[..., ::2] | (codes[..., 1::2] << 4)
    return packed


def stored(tensor: torch.Tensor) -> np.ndarray:
    """A float tensor in its own dtype; numpy gets bfloat16 from ml_dtypes."""
    if tensor.dtype == torch.bfloat16:
        import ml_dtypes

        return tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def _river(river: RiverWeight) -> dict[str, np.ndarray]:
    parts = {"qweight": river.qweight.numpy(), "scales": river.scales.numpy()}
    if river.zero_points is not None:
        parts["zero_points_packed"] = pack_nibbles(river.zero_points.numpy())
    if river.pre_scale is not None:
        parts["pre_scale"] = river.pre_scale.numpy()
    return parts
