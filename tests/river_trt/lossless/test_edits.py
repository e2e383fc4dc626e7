"""Penalties, biases, schemas and log-probabilities: lossless mode gives what full depth gives."""

import json
from dataclasses import replace

import numpy as np
import pytest

from river_trt import GenerationConfig
from tests.river_trt.conftest import VOCAB

CONFIG = GenerationConfig(max_new_tokens=40, ignore_eos=True, mode="lossless")
PROMPTS = [[1, 2, 3], [9], [4, 5, 6, 7, 8], [200, 3]]
CITY = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 6},
        "sizes": {"type": "array", "items": {"type": "integer", "maximum": 99}, "maxItems": 3},
        "is_new": {"type": "boolean"},
    },
    "required": ["city", "sizes", "is_new"],
    "additionalProperties": False,
}
EDITS = {
    "presence": {"presence_penalty": 1.5},
    "frequency": {"frequency_penalty": 0.8, "repetition_penalty": 1.2},
    "bias": {"logit_bias": {7: 3.0, 8: 3.0, 9: -100}},
    "schema": {"json_schema": CITY, "ignore_eos": False, "max_new_tokens": 60},
    "all": {
        "json_schema": CITY,
        "ignore_eos": False,
        "max_new_tokens": 60,
        "frequency_penalty": 0.5,
        "logit_bias": {ord("9"): 3.0},
    },
}


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("name", EDITS)
def test_greedy_text_is_the_full_depth_text(make_lossless_engine, name, on_device):
    engine = make_lossless_engine(0.9, on_device=on_device)
    engine.max_seq_len = 64
    config = replace(CONFIG, **EDITS[name])
    full = engine.generate(PROMPTS, replace(config, mode="full"))
    lossless = engine.generate(PROMPTS, config)
    assert [r.token_ids for r in lossless] == [r.token_ids for r in full]
    assert sum(int(r.speculation.accepted.sum()) for r in lossless) > 10, "drafts are edited too"
    plain = engine.generate(PROMPTS, replace(CONFIG, mode="full"))
    assert [r.token_ids for r in plain] != [r.token_ids for r in full], "and it matters"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("on_device", [False, True])
def test_drafts_hold_to_the_schema(make_lossless_engine, temperature, on_device):
    """With a river that is always right every draft is accepted, so none was outside the schema."""
    engine = make_lossless_engine(1.0, on_device=on_device)
    config = replace(CONFIG, **EDITS["schema"], temperature=temperature, seed=1)
    for result in engine.generate(PROMPTS, config):
        value = json.loads(result.text)
        assert len(value["city"]) <= 6 and value["is_new"] in (True, False)
        assert result.finish_reason == "eos"
        if temperature == 0:
            assert result.speculation.acceptance > 0.8  # repeats are guesses


@pytest.mark.parametrize("on_device", [False, True])
def test_logprobs_are_the_backbones(make_lossless_engine, on_device):
    engine = make_lossless_engine(0.8, on_device=on_device)
    config = replace(CONFIG, logprobs=5, frequency_penalty=0.5)
    full = engine.generate(PROMPTS, replace(config, mode="full"))
    for ours, theirs in zip(engine.generate(PROMPTS, config), full, strict=True):
        assert ours.token_ids == theirs.token_ids
        assert [one.token_id for one in ours.logprobs] == ours.token_ids
        for one, other in zip(ours.logprobs, theirs.logprobs, strict=True):
            assert [token for token, _ in one.top] == [token for token, _ in other.top]
            assert one.logprob == pytest.approx(other.logprob, abs=1e-6)


def test_the_devices_logprobs_are_the_hosts(make_lossless_engine):
    config = replace(CONFIG, logprobs=20, temperature=1.0, seed=3)
    host, device = (
        make_lossless_engine(0.8, on_device=on_device).generate(PROMPTS, config)
        for on_device in (False, True)
    )
    for ours, theirs in zip(host, device, strict=True):
        assert ours.token_ids == theirs.token_ids
        for one, other in zip(ours.logprobs, theirs.logprobs, strict=True):
            assert one.logprob == pytest.approx(other.logprob, abs=1e-5)
            np.testing.assert_allclose(
                [value for _, value in one.top], [value for _, value in other.top], atol=1e-5
            )
            assert len(one.top) == 20 and max(token for token, _ in one.top) < VOCAB
