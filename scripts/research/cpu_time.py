"""CPU time of decoding, which other programs on the machine disturb less than wall time."""

import time
from collections.abc import Sequence

from river_trt import Engine, GenerationConfig


def decode_cpu_seconds(engine: Engine, prompt: Sequence[int], config: GenerationConfig) -> float:
    """Of the whole process, a token, after the first one: that one belongs to the prefill."""
    started, tokens = 0.0, 0
    for _ in engine.stream([list(prompt)], config):
        tokens += 1
        if tokens == 1:
            started = time.process_time()
    return (time.process_time() - started) / (tokens - 1)
