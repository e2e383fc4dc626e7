"""How long the fuzzers try: about a minute together, or as many times that as RIVER_TRT_FUZZ says.

RIVER_TRT_FUZZ_SEED: another seed gives other inputs; the same one the same.
"""

import os

from hypothesis import HealthCheck, settings

FACTOR = int(os.environ.get("RIVER_TRT_FUZZ", "1"))
SEED = int(os.environ.get("RIVER_TRT_FUZZ_SEED", "1"))


def fuzzing(inputs: int) -> settings:
    """Settings of hypothesis for so many inputs; one that takes 20 seconds hangs."""
    return settings(
        max_examples=inputs * FACTOR,
        deadline=20_000,
        database=None,
        derandomize=SEED == 1,
        suppress_health_check=list(HealthCheck),
    )


def report(what: str, inputs: int, outcome: str) -> None:
    """A line of the long run's figures; pytest -s shows it."""
    print(f"\nfuzzed: {what}: {inputs} inputs, {outcome}")
