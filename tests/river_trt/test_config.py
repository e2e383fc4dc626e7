import numpy as np
import pytest

from river_trt import ExitPolicy, GenerationConfig, RiverError
from river_trt.config import (
    LONGEST_STOP_STRING,
    MOST_STOP_STRINGS,
    resolve_draft_policy,
    resolve_policy,
)

ENGINE = ExitPolicy(
    np.array([0.5, 0.6, np.inf], np.float32),
    np.array([True, False, False]),
    np.ones((3, 2), np.float32),
)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_new_tokens", 0),
        ("max_new_tokens", 2.5),
        ("max_new_tokens", True),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", "1"),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", 1.0),
        ("repetition_penalty", 0.0),
        ("seed", -1),
        ("stop", ("",)),
        ("stop", (3,)),
        ("stop", 3),
        ("stop", ["x"] * (MOST_STOP_STRINGS + 1)),
        ("stop", "x" * (LONGEST_STOP_STRING + 1)),
        ("stop", ["x" * LONGEST_STOP_STRING] * 17),
        ("stop_token_ids", (-1,)),
        ("stop_token_ids", 3),
        ("ignore_eos", 1),
        ("tau", float("nan")),
        ("tau", [0.5, float("nan")]),
        ("tau", "x"),
        ("tau", True),
        ("pinned", [0]),
        ("pinned", 3),
        ("pinned", [1.5]),
        ("prefill", "on"),
        ("gate_scope", "sequence"),
        ("mode", "fast"),
        ("max_draft_tokens", 0),
    ],
)
def test_bad_value_is_refused_by_name(field, value):
    with pytest.raises(RiverError, match=field):
        GenerationConfig(**{field: value})


def test_sequences_become_tuples():
    config = GenerationConfig(stop="END", stop_token_ids=[1], tau=np.ones(2), pinned=[2])
    assert (config.stop, config.stop_token_ids) == (("END",), (1,))
    assert (config.tau, config.pinned) == ((1.0, 1.0), (2,))


def test_none_is_no_stop():
    config = GenerationConfig(stop=None, stop_token_ids=None)
    assert (config.stop, config.stop_token_ids) == ((), ())


def test_without_tau_and_pinned_the_engine_decides():
    policy = resolve_policy(GenerationConfig(), ENGINE, 3)
    assert np.array_equal(policy.tau, ENGINE.tau)
    assert np.array_equal(policy.pinned, ENGINE.pinned)


@pytest.mark.parametrize("tau", [-np.inf, 0.25, np.inf, np.float32(0.25), 1])
def test_one_number_holds_for_every_layer_and_directions_stay(tau):
    policy = resolve_policy(GenerationConfig(tau=tau), ENGINE, 3)
    assert policy.tau.tolist() == [tau] * 3
    assert policy.directions is ENGINE.directions


def test_pinned_numbers_count_from_one():
    policy = resolve_policy(GenerationConfig(pinned=[3]), ENGINE, 3)
    assert policy.pinned.tolist() == [False, False, True]
    assert not resolve_policy(GenerationConfig(pinned=()), ENGINE, 3).pinned.any()


def test_wrong_length_and_layer_are_refused():
    with pytest.raises(RiverError, match="2 values but the model has 3 layers"):
        resolve_policy(GenerationConfig(tau=[0.1, 0.2]), ENGINE, 3)
    with pytest.raises(RiverError, match=r"layer 4 is not one of the layers 1\.\.3"):
        resolve_policy(GenerationConfig(pinned=[4]), ENGINE, 3)


@pytest.mark.parametrize("mode", ["full", "lossless"])
@pytest.mark.parametrize(
    "asked", [{"tau": 0.9}, {"tau": np.inf}, {"prefill": "sequence"}, {"gate_scope": "batch"}]
)
def test_backbone_output_takes_nothing_that_would_change_it(mode, asked):
    (name,) = asked
    with pytest.raises(RiverError, match=f"^{name} .* is for the mode 'river'.*leave it out"):
        GenerationConfig(mode=mode, **asked)


def test_backbone_makes_the_text_and_pins_are_the_drafts():
    for mode in ("full", "lossless"):
        policy = resolve_policy(GenerationConfig(mode=mode), ENGINE, 3)
        assert np.isposinf(policy.tau).all() and not policy.pinned.any()
    with pytest.raises(RiverError, match="pinned is for the modes"):
        GenerationConfig(mode="full", pinned=[1])
    draft = ExitPolicy.all_river(np.array([False, True, False]))
    assert resolve_draft_policy(GenerationConfig(mode="lossless"), draft, 3) is draft
    chosen = resolve_draft_policy(GenerationConfig(mode="lossless", pinned=[3]), draft, 3)
    assert chosen.pinned.tolist() == [False, False, True] and np.isneginf(chosen.tau).all()
    with pytest.raises(RiverError, match="layer 4"):
        resolve_draft_policy(GenerationConfig(mode="lossless", pinned=[4]), draft, 3)
