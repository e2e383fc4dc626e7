"""Polygraphy's comparison of each runner with the torch reference."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from polygraphy.comparator import Comparator, SimpleCompareFunc
from polygraphy.logger import G_LOGGER

from builders.verify.runners import PassRunner


@dataclass(frozen=True, slots=True)
class Comparison:
    """One output of one backend against the reference, over all cases."""

    backend: str
    output: str
    tolerance: float  # absolute; of hidden states relative as well
    worst: float  # the largest absolute difference
    passed: bool


def compare(
    reference: PassRunner,
    runners: Mapping[PassRunner, float],  # to the tolerance of their logits
    cases: Sequence[Mapping[str, np.ndarray]],
) -> list[Comparison]:
    """Run every case through all; exit layers must be equal, the rest within tolerance."""
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
        results = Comparator.run([reference, *runners], data_loader=list(cases), warm_up=0)
        found: list[Comparison] = []
        for index, (runner, tolerance) in enumerate(runners.items(), start=1):
            limits = {"exit_layer": 0.0, "": tolerance}
            # Hidden states hold single values of tens of thousands: those may differ in proportion.
            relative = {"exit_layer": 0.0, "logits": 0.0, "": tolerance}
            rule = SimpleCompareFunc(atol=limits, rtol=relative, check_error_stat="elemwise")
            accuracy = Comparator.compare_accuracy(
                results, comparisons=[(0, index)], compare_func=rule
            )
            worst: dict[str, float] = {}
            passed: dict[str, bool] = {}
            ((_, iterations),) = accuracy[0].items()  # of the only rule: of the only pair
            for iteration in iterations:
                for output, result in iteration.items():
                    difference = float(result.max_absdiff)
                    difference = math.inf if math.isnan(difference) else difference
                    worst[output] = max(worst.get(output, 0.0), difference)
                    good = bool(result) and math.isfinite(difference)
                    passed[output] = passed.get(output, True) and good
            found += [
                Comparison(
                    runner.name,
                    output,
                    limits.get(output, tolerance),
                    worst[output],
                    passed[output],
                )
                for output in worst
            ]
    return found
