"""AWQ, whose codes are then chosen by what the whole model feels: builders/tuning does that."""

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
        """What the tuning begins with."""
        from builders.quantisers.awq import Awq  # and modelopt

        return Awq(self.group_size, self.symmetric)

    def quantise(self, weight: torch.Tensor, inputs: torch.Tensor | None = None) -> RiverWeight:
        """Of one linear alone, before any tuning."""
        return self.start().quantise(weight, inputs)
