"""4-bit river weights: the layout, and what every quantiser shares."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F

MAX_CODE = 15
SYMMETRIC_ZERO = 8  # the code of zero in a symmetric weight
ROW_BLOCK_ELEMENTS = 1 << 16  # for each thread: fitting goes over a block many times, in its cache


@dataclass(frozen=True, slots=True, eq=False)
class RiverWeight:
    """y[n] = sum_k x[k] * pre_scale[k] * (code[n, k] - zero_point[n, g]) * scale[n, g].

    K is cut into groups of group_size; a last group that is part filled is padded with codes
    equal to its zero point.
    """

    qweight: torch.Tensor  # [N, groups, group_size / 2] uint8; the low nibble is the even k
    scales: torch.Tensor  # [N, groups] float32
    zero_points: torch.Tensor | None  # [N, groups] uint8, 0..15; None: symmetric, implied 8
    pre_scale: torch.Tensor | None = None  # [K] float32, multiplies the input

    @classmethod
    def from_codes(
        cls,
        codes: torch.Tensor,  # [N, groups, group_size], whole numbers 0..15
        scales: torch.Tensor,  # [N, groups]
        zero_points: torch.Tensor,  # [N, groups], whole numbers 0..15
        *,
        symmetric: bool,
        pre_scale: torch.Tensor | None = None,
    ) -> "RiverWeight":
        codes = codes.to(torch.uint8)
        return cls(
            qweight=codes[..., ::2] | (codes[..., 1::2] << 4),
            scales=scales.float().contiguous(),
            zero_points=None if symmetric else zero_points.to(torch.uint8).contiguous(),
            pre_scale=pre_scale,
        )

    def scale_rows(self, factors: torch.Tensor) -> "RiverWeight":
        """The weight whose output row n is multiplied by factors[n]; float32 [N]."""
        return replace(self, scales=self.scales * factors[:, None])

    @property
    def group_size(self) -> int:
        return self.qweight.shape[-1] * 2

    @property
    def num_bytes(self) -> int:
        """Bytes of all parts."""
        parts = (self.qweight, self.scales, self.zero_points, self.pre_scale)
        return sum(part.numel() * part.element_size() for part in parts if part is not None)

    def codes(self) -> torch.Tensor:
        """uint8 [N, groups, group_size]."""
        return torch.stack([self.qweight & 0xF, self.qweight >> 4], dim=-1).flatten(-2)

    def dequantise(self, in_features: int) -> torch.Tensor:
        """float32 [N, in_features], pre_scale included: x @ result.T is what the river computes."""
        zero = SYMMETRIC_ZERO if self.zero_points is None else self.zero_points[..., None].float()
        groups = (self.codes().float() - zero) * self.scales[..., None]
        weight = groups.flatten(1)[:, :in_features]
        return weight if self.pre_scale is None else weight * self.pre_scale


class Quantiser(Protocol):
    """Turns a linear's weight into its river weight."""

    @property
    def name(self) -> str: ...

    @property
    def needs_inputs(self) -> bool: ...

    def quantise(
        self,
        weight: torch.Tensor,  # [N, K] float32
        inputs: torch.Tensor | None = None,  # [tokens, K] float32: what the linear is given
    ) -> RiverWeight: ...


# (scales, zero_points), each [rows, groups], for rows in groups [rows, groups, group_size].
Grid = tuple[torch.Tensor, torch.Tensor]


def to_groups(weight: torch.Tensor, group_size: int) -> torch.Tensor:
    """[N, K] -> [N, groups, group_size]; the padding is zero."""
    padding = -weight.shape[1] % group_size
    return F.pad(weight, (0, padding)).view(len(weight), -1, group_size)


def round_to_grid(groups: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Nearest codes, as float32 whole numbers 0..15."""
    scales, zero_points = grid
    return (groups / scales[..., None] + zero_points[..., None]).round_().clamp_(0, MAX_CODE)


def squared_error(groups: torch.Tensor, grid: Grid) -> torch.Tensor:
    """[rows, groups]: what rounding to a grid loses."""
    scales, zero_points = grid
    steps = round_to_grid(groups, grid) - zero_points[..., None]
    return (groups - steps * scales[..., None]).square().sum(-1)


def range_grid(low: torch.Tensor, high: torch.Tensor, symmetric: bool) -> Grid:
    """The grid that spans low..high; both [rows, groups], and low <= 0 <= high.

    Zero points are whole numbers, so zero is exact and a range that excludes it gains nothing.
    """
    if symmetric:
        scales = torch.maximum(-low / SYMMETRIC_ZERO, high / (MAX_CODE - SYMMETRIC_ZERO))
        scales = scales.clamp(min=torch.finfo(torch.float32).tiny)
        return scales, torch.full_like(scales, SYMMETRIC_ZERO)
    scales = ((high - low) / MAX_CODE).clamp(min=torch.finfo(torch.float32).tiny)
    return scales, (-low / scales).round().clamp(0, MAX_CODE)


def value_range(groups: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(low, high) of each group, stretched to hold zero."""
    return groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)


def quantise_rows(
    weight: torch.Tensor,  # [N, K] float32
    fit: Callable[[torch.Tensor], Grid],
    *,
    group_size: int,
    symmetric: bool,
    pre_scale: torch.Tensor | None = None,
) -> RiverWeight:
    """Fit a grid to a block of rows at a time and round to it."""
    parts = []
    block = ROW_BLOCK_ELEMENTS * torch.get_num_threads()
    for rows in torch.split(weight, max(1, block // weight.shape[1])):
        groups = to_groups(rows, group_size)
        grid = fit(groups)
        parts.append((round_to_grid(groups, grid).to(torch.uint8), *grid))
    codes, scales, zero_points = (torch.cat(part) for part in zip(*parts, strict=True))
    return RiverWeight.from_codes(
        codes, scales, zero_points, symmetric=symmetric, pre_scale=pre_scale
    )
