"""Kept rows on real kernels: what was reused is, to the last bit, what would have been computed."""

from dataclasses import replace

import numpy as np
import pytest

import river_trt
from river_trt import GenerationConfig
from tests.builders.tiny_engines import build_pair
from tests.river_trt.test_prefixes import run

VOCAB = 112
CONFIG = GenerationConfig(max_new_tokens=9, ignore_eos=True)
MODES = {
    "river": replace(CONFIG, tau=0.9),
    "full": replace(CONFIG, mode="full"),
    "lossless": replace(CONFIG, mode="lossless"),
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("prefixes")
    build_pair(path, kernels="native", river_activation="int8", max_position_embeddings=256)
    return path / "engine"


def conversation(directory, kept_rows, config):
    """The results of four turns, and the cache behind the last prompt."""
    engine = river_trt.load(
        directory, max_batch_size=2, prefill_chunk=16, batch_invariant=True, kept_rows=kept_rows
    )
    scheduler, results = engine.scheduler(), []
    prompt = np.random.default_rng(0).integers(3, 99, 37).tolist()
    for turn in range(4):
        results += run(scheduler, (prompt, config))
        prompt = [*prompt, *results[-1].token_ids, 5 + turn, 7, 9]
    scheduler.close()
    return results, engine.read_cache(0, results[-1].prompt_tokens)


@pytest.mark.parametrize("mode", MODES)
def test_texts_and_caches_are_the_same_with_and_without(directory, mode):
    results, cache = conversation(directory, 3, MODES[mode])
    plain, expected = conversation(directory, 0, MODES[mode])
    assert [r.token_ids for r in results] == [r.token_ids for r in plain]
    assert [r.exit_layers.tolist() for r in results] == [r.exit_layers.tolist() for r in plain]
    assert min(r.reused_tokens for r in results[1:]) >= 37
    np.testing.assert_array_equal(cache, expected)
