"""What a user is ready to pay, and what the paper's or a calibrated policy has to keep to."""

import math
from dataclasses import dataclass
from typing import Literal

from river_trt.errors import RiverError

BudgetKind = Literal["max-kl", "min-agreement", "target-layers"]


@dataclass(frozen=True, slots=True)
class Budget:
    """`max-kl` in nats, `min-agreement` 0..1, or `target-layers`: mean backbone layers."""

    kind: BudgetKind
    value: float

    def check(self, num_layers: int) -> None:
        """RiverError for a budget that no policy of a model of this depth can meet."""
        if math.isnan(self.value):
            raise RiverError(f"--{self.kind} must be a number, got nan")
        if self.kind == "target-layers" and not 1 <= self.value <= num_layers:
            raise RiverError(
                f"--target-layers {self.value:g} cannot be met: layer 1 always runs the backbone "
                f"and the model has {num_layers} layers, so the best is 1 to {num_layers}"
            )
        if self.kind == "max-kl" and self.value < 0:
            raise RiverError(
                f"--max-kl {self.value:g} cannot be met: the best is 0, the backbone itself"
            )
        if self.kind == "min-agreement" and not 0 <= self.value <= 1:
            raise RiverError(
                f"--min-agreement {self.value:g} cannot be met: it is a share, at best 1 "
                "for the backbone itself"
            )

    def met_by(self, kl: float, agreement: float) -> bool:
        """Whether the quality is enough; a target of layers asks nothing of it."""
        if self.kind == "max-kl":
            return kl <= self.value
        if self.kind == "min-agreement":
            return agreement >= self.value
        return True
