"""Round to nearest: each group's grid spans its smallest to its largest weight."""

from dataclasses import dataclass

import torch

from builders.quantisers.base import Grid, RiverWeight, quantise_rows, range_grid, value_range


@dataclass(frozen=True, slots=True)
class Rtn:
    group_size: int
    symmetric: bool
    name: str = "rtn"
    needs_inputs: bool = False

    def quantise(self, weight: torch.Tensor, inputs: torch.Tensor | None = None) -> RiverWeight:
        return quantise_rows(
            weight, self._fit, group_size=self.group_size, symmetric=self.symmetric
        )

    def _fit(self, groups: torch.Tensor) -> Grid:
        return range_grid(*value_range(groups), self.symmetric)
