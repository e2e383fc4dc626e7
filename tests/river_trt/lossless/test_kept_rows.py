"""Rows that are kept in lossless mode hold the backbone's K and V alone, on every session."""

from dataclasses import replace
from itertools import pairwise

import pytest

from river_trt import GenerationConfig
from tests.river_trt.test_prefixes import LONG, run, turns

CONFIG = GenerationConfig(max_new_tokens=11, ignore_eos=True, mode="lossless")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("on_device", [False, True])
def test_a_conversation_is_the_same_with_and_without(make_lossless_engine, on_device, temperature):
    """The stand-in gives NaN where the backbone reads a slot that a draft wrote."""

    def conversation(kept_rows):
        engine = make_lossless_engine(
            0.7, max_seq_len=200, on_device=on_device, kept_rows=kept_rows
        )
        config = replace(CONFIG, temperature=temperature, seed=3)
        return turns(engine.scheduler(), 5, config)

    kept, plain = conversation(3), conversation(0)
    assert [r.token_ids for r in kept] == [r.token_ids for r in plain]
    for before, after in pairwise(kept):
        assert after.reused_tokens == before.prompt_tokens + len(before.token_ids) - 1


def test_a_row_that_drafts_lends_its_beginning(make_lossless_engine):
    engine = make_lossless_engine(0.7, max_seq_len=200, kept_rows=1)
    configs = [replace(CONFIG, temperature=1.0, seed=seed) for seed in range(4)]
    configs.append(replace(CONFIG, mode="full"))
    together = run(engine.scheduler(max_queue=8), *((LONG, config) for config in configs))
    assert [r.reused_tokens for r in together[1:]] == [len(LONG) - 1] * 4
    for result, config in zip(together, configs, strict=True):
        alone = make_lossless_engine(0.7, max_seq_len=200).generate(LONG, config)[0]
        assert result.token_ids == alone.token_ids
