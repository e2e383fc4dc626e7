"""How long the fuzzers try: about a minute together, or as many times that as RIVER_TRT_FUZZ says.

RIVER_TRT_FUZZ_SEED: another seed gives other inputs; the same one the same.
"""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import hypothesis
from hypothesis import HealthCheck

FACTOR = int(os.environ.get("RIVER_TRT_FUZZ", "1"))
SEED = int(os.environ.get("RIVER_TRT_FUZZ_SEED", "1"))
HANGS = timedelta(minutes=3)  # an input that takes milliseconds; no crowded machine makes it so


def fuzzing(inputs: int) -> Callable[[Any], Any]:
    """For a test of hypothesis: so many inputs, those of the seed."""
    settings = hypothesis.settings(
        max_examples=inputs * FACTOR,
        deadline=HANGS,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    return lambda test: hypothesis.seed(SEED)(settings(test))


def report(what: str, inputs: int, outcome: str) -> None:
    """A line of the long run's figures; pytest -s shows it."""
    print(f"\nfuzzed: {what}: {inputs} inputs, {outcome}")
