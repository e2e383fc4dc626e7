"""The text that streams is what transformers' own `decode` makes of all ids."""

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from river_trt.text import TextStream, Tokenizer
from tests.river_trt.text.kinds import KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_streamed_is_decoded(kind: str) -> None:
    raw = KINDS[kind]()
    tokenizer = Tokenizer(raw)
    their = PreTrainedTokenizerFast(tokenizer_object=raw)
    rng = np.random.default_rng(1)
    for _ in range(200):
        ids = rng.integers(0, raw.get_vocab_size(), int(rng.integers(1, 40))).tolist()
        cut = int(rng.integers(0, len(ids)))
        stream = TextStream(tokenizer, (), ids[:cut])
        text = "".join([*(stream.push(token) for token in ids[cut:]), stream.flush()])
        whole, before = (their.decode(part, skip_special_tokens=True) for part in (ids, ids[:cut]))
        shared = next(
            (i for i, (a, b) in enumerate(zip(whole, before, strict=False)) if a != b), None
        )
        assert text == whole[min(len(whole), len(before)) if shared is None else shared :]
