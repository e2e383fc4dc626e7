"""Integer weights beside the river: 4 or 8 bits, asymmetric, rounded to nearest.

LM heads, which both banks share, and 8-bit backbones.
"""

from dataclasses import dataclass

import torch

from builders.quantisers.base import to_groups

ROWS_AT_ONCE = 8192  # the float32 copy of a whole LM head can be gigabytes


@dataclass(frozen=True, slots=True, eq=False)
class IntegerWeight:
    """y[n] = sum_k x[k] * (code[n, k] - zero_point[n, g]) * scale[n, g]."""

    bits: int
    codes: torch.Tensor  # [N, groups, group_size] uint8
    scales: torch.Tensor  # [N, groups] float32
    zero_points: torch.Tensor  # [N, groups] uint8

    def dequantise(self, in_features: int) -> torch.Tensor:
        """float32 [N, in_features]."""
        centred = self.codes.float() - self.zero_points[..., None].float()
        return (centred * self.scales[..., None]).flatten(1)[:, :in_features]


def quantise_integer(weight: torch.Tensor, bits: int, group_size: int) -> IntegerWeight:
    """Round each group of a weight [N, K], any float dtype, to a grid of 2**bits codes."""
    top = 2**bits - 1
    parts = []
    for rows in torch.split(weight, ROWS_AT_ONCE):
        groups = to_groups(rows.float(), group_size)
        low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
        scales = ((high - low) / top).clamp(min=torch.finfo(torch.float32).tiny)
        zero_points = (-low / scales).round().clamp(0, top)
        codes = (groups / scales[..., None] + zero_points[..., None]).round().clamp(0, top)
        parts.append((codes.to(torch.uint8), scales, zero_points.to(torch.uint8)))
    codes, scales, zero_points = (torch.cat(part) for part in zip(*parts, strict=True))
    return IntegerWeight(bits, codes, scales, zero_points)
