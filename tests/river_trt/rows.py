"""Rows for tests of what chooses their tokens."""

import numpy as np

from river_trt.config import GenerationConfig
from river_trt.manifest import SamplingInfo
from river_trt.row import Row
from river_trt.sampling import resolve_sampling, row_generator
from river_trt.spec import ExitPolicy


def make_row(config: GenerationConfig, index: int, vocab_size: int) -> Row:
    """A row that saw every fifth token, if it has a penalty."""
    sampling = resolve_sampling(config, SamplingInfo())
    seen = None
    if sampling.repetition_penalty != 1.0:
        seen = np.arange(vocab_size) % 5 == 0
    return Row(
        index=index,
        prompt=np.array([1, 2, 3]),
        config=config,
        policy=ExitPolicy.full_depth(2),
        generator=row_generator(config.seed, index),
        seen=seen,
        text=None,
        eos_token_ids=frozenset(),
        cache_length=64,
        sampling=sampling,
    )
