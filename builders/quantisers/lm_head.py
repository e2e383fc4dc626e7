"""Integer LM heads: 4 or 8 bits, asymmetric, rounded to nearest. No bank: one head for both."""

from dataclasses import dataclass

import torch

from builders.quantisers.base import to_groups

ROWS_AT_ONCE = 8192  # the float32 copy of a whole head can be gigabytes


@dataclass(frozen=True, slots=True, eq=False)
class QuantisedHead:
    """logits[v] = sum_k x[k] * (code[v, k] - zero_point[v, g]) * scale[v, g]."""

    bits: int
    codes: torch.Tensor  # [vocab, groups, group_size] uint8
    scales: torch.Tensor  # [vocab, groups] float32
    zero_points: torch.Tensor  # [vocab, groups] uint8

    def dequantise(self, hidden: int) -> torch.Tensor:
        """float32 [vocab, hidden]."""
        centred = self.codes.float() - self.zero_points[..., None].float()
        return (centred * self.scales[..., None]).flatten(1)[:, :hidden]


def quantise_head(weight: torch.Tensor, bits: int, group_size: int) -> QuantisedHead:
    """Round each group of a head [vocab, hidden], any float dtype, to a grid of 2**bits codes."""
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
    return QuantisedHead(bits, codes, scales, zero_points)
