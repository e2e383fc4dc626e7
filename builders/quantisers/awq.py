"""Activation-aware quantisation (AWQ): modelopt finds the input scaling, a search the clipping."""

import copy
from dataclasses import dataclass
from functools import partial

import torch

from builders.quantisers.base import (
    Grid,
    RiverWeight,
    quantise_rows,
    range_grid,
    round_to_grid,
    to_groups,
    value_range,
)
from builders.quiet import quietly
from river_trt.errors import RiverError

with quietly():
    import modelopt.torch.quantization as mtq

SEARCH_TOKENS = 512  # more make the search for the input scaling slower, not better
CLIP_RATIOS = torch.linspace(1.0, 0.5, 11).tolist()


@dataclass(frozen=True, slots=True)
class Awq:
    group_size: int
    symmetric: bool
    name: str = "awq"
    needs_inputs: bool = True

    def quantise(self, weight: torch.Tensor, inputs: torch.Tensor | None = None) -> RiverWeight:
        if inputs is None:
            raise RiverError("awq needs inputs: text that the model has read")
        stride = max(1, len(inputs) // SEARCH_TOKENS)
        pre_scale = search_pre_scale(weight, inputs[::stride], self.group_size)
        energy = (inputs * pre_scale).square().mean(0)  # [K]
        return quantise_rows(
            weight / pre_scale,
            partial(fit_clipped, to_groups(energy[None], self.group_size), self.symmetric),
            group_size=self.group_size,
            symmetric=self.symmetric,
            pre_scale=pre_scale,
        )


def search_pre_scale(weight: torch.Tensor, inputs: torch.Tensor, group_size: int) -> torch.Tensor:
    """AWQ's input scaling, float32 [K]: the one that changes the linear's output least."""
    config = copy.deepcopy(mtq.INT4_AWQ_CFG)
    for entry in config["quant_cfg"]:
        if entry["quantizer_name"] == "*weight_quantizer":
            entry["cfg"]["block_sizes"] = {-1: group_size, "type": "static"}
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    linear.weight.data.copy_(weight)
    with quietly():  # modelopt replaces what a module holds, never the module it is given
        model = mtq.quantize(torch.nn.Sequential(linear), config, lambda model: model(inputs))
    pre_scale: torch.Tensor = model[0].input_quantizer.pre_quant_scale
    return pre_scale.detach().float().flatten().clone()


def fit_clipped(energy: torch.Tensor, symmetric: bool, groups: torch.Tensor) -> Grid:
    """The grid over a clipped range with the least output error, for uncorrelated inputs.

    energy: [1, groups, group_size], each input's mean square.
    """
    low, high = value_range(groups)
    best_scales, best_zeros = range_grid(low, high, symmetric)
    best_error = torch.full_like(low, torch.inf)
    for ratio in CLIP_RATIOS:
        scales, zero_points = range_grid(low * ratio, high * ratio, symmetric)
        steps = round_to_grid(groups, (scales, zero_points)) - zero_points[..., None]
        weighted = steps * energy
        fitted = (weighted * groups).sum(-1) / (weighted * steps).sum(-1)
        scales = torch.where(fitted > 0, fitted, scales)  # NaN for an all-zero group
        error = ((groups - steps * scales[..., None]).square() * energy).sum(-1)
        better = error < best_error
        best_scales = torch.where(better, scales, best_scales)
        best_zeros = torch.where(better, zero_points, best_zeros)
        best_error = torch.minimum(error, best_error)
    return best_scales, best_zeros
