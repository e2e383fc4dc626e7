"""How many examples a fuzzer tries: the same ones each time, or new ones for as long as you like.

RIVER_TRT_FUZZ=1000 python -m pytest tests/fuzz -q      a thousand times as many, random ones
"""

import os

from hypothesis import HealthCheck, settings

FACTOR = int(os.environ.get("RIVER_TRT_FUZZ", "0"))


def fuzzing(count: int) -> settings:
    return settings(
        max_examples=count * max(1, FACTOR),
        derandomize=FACTOR == 0,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
