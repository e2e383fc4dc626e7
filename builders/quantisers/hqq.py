"""Half-quadratic quantisation (HQQ), through the hqq library, brought to whole zero points."""

from dataclasses import dataclass

import torch

from builders.quantisers.base import (
    MAX_CODE,
    Grid,
    RiverWeight,
    quantise_rows,
    range_grid,
    squared_error,
    value_range,
)
from builders.quiet import quietly
from river_trt.errors import RiverError

with quietly():
    from hqq.core.quantize import Quantizer


@dataclass(frozen=True, slots=True)
class Hqq:
    """HQQ fits each group's zero point, so it has no symmetric form.

    The library's zero points are fractions; the river's are whole, as the 4-bit kernels want them.
    A group that this harms keeps the round-to-nearest grid.
    """

    group_size: int
    symmetric: bool
    name: str = "hqq"
    needs_inputs: bool = False

    def __post_init__(self) -> None:
        if self.symmetric:
            raise RiverError("hqq fits zero points, so it cannot be symmetric; use rtn or awq")

    def quantise(self, weight: torch.Tensor, inputs: torch.Tensor | None = None) -> RiverWeight:
        return quantise_rows(
            weight, self._fit, group_size=self.group_size, symmetric=self.symmetric
        )

    def _fit(self, groups: torch.Tensor) -> Grid:
        _, meta = Quantizer.quantize(
            groups.flatten(0, 1),
            nbits=4,
            group_size=self.group_size,
            axis=1,
            bitpack=False,
            device="cpu",
        )
        shape = groups.shape[:2]
        fitted = meta["scale"].view(shape), meta["zero"].view(shape).round().clamp(0, MAX_CODE)
        plain = range_grid(*value_range(groups), symmetric=False)
        # Brought into 0..15, a zero point can leave the group's values outside its grid.
        better = squared_error(groups, fitted) < squared_error(groups, plain)
        return torch.where(better, fitted[0], plain[0]), torch.where(better, fitted[1], plain[1])
