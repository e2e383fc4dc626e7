"""How long a build will take, said before it starts: counts times the speed of a product here."""

import time
from dataclasses import dataclass

import torch

from builders.families import ModelConfig

# Measured with one thread of a machine that multiplies at RATE (docs/measurements.md).
RATE = 140e9  # FLOP/s of a float32 product
# Seconds a weight of the layers.
QUANTISING = {"rtn": 12e-9, "hqq": 400e-9, "awq": 350e-9, "tuned": 4800e-9}
FIRST_ORDER = 170e-9  # seconds a weight: what each layer costs on the river
SEARCH_TOKENS = 54_700  # that a calibration runs through the whole model
SEARCH_SHARE = 0.75  # of the product's speed that a step reaches, logits compared and all


@dataclass(frozen=True, slots=True)
class Forecast:
    """Seconds of the two long parts of a build; right within a factor of two on an idle machine."""

    quantising: float
    calibrating: float  # 0 without it

    @classmethod
    def of(
        cls,
        config: ModelConfig,
        num_parameters: int,
        quantiser: str,
        calibrates: bool,
        rate: float | None = None,
    ) -> "Forecast":
        """rate: float32 FLOP/s of this machine; None measures it, in a fraction of a second."""
        rate = product_rate() if rate is None else rate
        a_layer = sum(rows * columns for rows, columns in config.linear_shapes.values())
        weights = config.num_layers * a_layer
        each = QUANTISING[quantiser] + (FIRST_ORDER if calibrates else 0)
        searching = SEARCH_TOKENS * 2 * num_parameters / (SEARCH_SHARE * rate)
        return cls(weights * each * RATE / rate, searching if calibrates else 0.0)

    def __str__(self) -> str:
        parts = f"quantising {_words(self.quantising)}"
        if self.calibrating:
            parts += f", calibrating {_words(self.calibrating)} (--no-calibrate leaves it out)"
        return f"takes about {_words(self.quantising + self.calibrating)} here: {parts}"


def product_rate() -> float:
    """FLOP/s of float32 products with torch's threads."""
    size = 1024
    a, b = torch.ones(size, size), torch.ones(size, size)
    best = float("inf")
    for _ in range(4):
        started = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def _words(seconds: float) -> str:
    if seconds < 100:
        return f"{max(1, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"
