"""Rows for tests of what chooses their tokens."""

import numpy as np

from river_trt.config import GenerationConfig
from river_trt.edits import Edits
from river_trt.manifest import SamplingInfo
from river_trt.row import Row
from river_trt.sampling import resolve_sampling, row_generator
from river_trt.spec import ExitPolicy


def make_row(config: GenerationConfig, index: int, vocab_size: int) -> Row:
    """A row whose prompt has every fifth token."""
    sampling = resolve_sampling(config, SamplingInfo())
    prompt = np.arange(0, vocab_size, 5)
    return Row(
        index=index,
        prompt=prompt,
        config=config,
        policy=ExitPolicy.full_depth(2),
        generator=row_generator(config.seed, index),
        edits=Edits(config, sampling, prompt, vocab_size, None),
        text=None,
        eos_token_ids=frozenset(),
        cache_length=2 * vocab_size,
        sampling=sampling,
    )
