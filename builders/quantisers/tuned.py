"""AWQ, whose scales are then trained, all layers together: builders/river_tuning.py does that."""

from dataclasses import dataclass

import torch

from builders.quantisers.base import Quantiser, RiverWeight


@dataclass(frozen=True, slots=True)
class Tuned:
    group_size: int
    symmetric: bool
    name: str = "tuned"
    needs_inputs: bool = True

    def start(self) -> Quantiser:
        """What the training begins with."""
        from builders.quantisers.awq import Awq  # and modelopt

        return Awq(self.group_size, self.symmetric)

    def quantise(self, weight: torch.Tensor, inputs: torch.Tensor | None = None) -> RiverWeight:
        """Of one linear alone, before any training."""
        return self.start().quantise(weight, inputs)
