"""The seam: hidden states are a session's to offer, and the cache serves one caller."""

import numpy as np
import pytest

from river_trt.errors import RiverError
from tests.river_trt.conftest import LAYERS, VOCAB

HIDDEN = 8


def test_a_session_that_shows_no_hidden_states_is_refused_in_one_sentence(make_engine):
    stepper = make_engine().stepper
    for call in (stepper.check_hidden_states, lambda: stepper.hidden_states(np.array([1, 2]))):
        with pytest.raises(RiverError, match="engines of the backend onnxruntime do not show") as e:
            call()
        assert "give an onnxruntime engine of the same model, or --model" in str(e.value)
        assert "\n" not in str(e.value)


def test_a_session_that_shows_them_is_asked_for_checked_ids(make_engine, monkeypatch):
    stepper, asked = make_engine().stepper, []

    def hidden_states(self, token_ids, last):
        asked.append(token_ids)
        return np.zeros((last + 1, len(token_ids), HIDDEN), np.float32)

    monkeypatch.setattr(type(stepper.session), "hidden_states", hidden_states, raising=False)
    stepper.check_hidden_states()
    assert stepper.hidden_states(np.array([3, 4], np.int32)).shape == (LAYERS, 2, HIDDEN)
    assert asked[0].dtype == np.int64
    with pytest.raises(RiverError, match=f"token id {VOCAB} is outside"):
        stepper.hidden_states(np.array([VOCAB]))
    with pytest.raises(RiverError, match=f"h_0 .. h_{LAYERS - 1}, got h_{LAYERS}"):
        stepper.hidden_states(np.array([3]), LAYERS)


def test_the_cache_serves_one_caller_whoever_it_is(make_engine):
    engine = make_engine()
    stream = engine.stream([1, 2, 3])
    next(stream)
    calls = (
        lambda: engine.stepper.forward(np.array([[1]]), engine.policy),
        lambda: engine.stepper.read_cache(0, 1),
        lambda: engine.scheduler(),
        lambda: engine.generate([1]),
    )
    for call in calls:
        with pytest.raises(RiverError, match="busy with another generation"):
            call()
    stream.close()
    for call in calls:
        result = call()
        if hasattr(result, "close"):
            result.close()


def test_forward_of_the_engine_is_the_steppers_by_its_own_policy(make_engine):
    engine, ids = make_engine(tau=-np.inf), np.arange(6).reshape(2, 3)
    expected = engine.stepper.forward(ids, engine.policy, gate_scope="batch", first_row=1)
    for found, wanted in zip(
        engine.forward(ids, gate_scope="batch", first_row=1), expected, strict=True
    ):
        np.testing.assert_array_equal(found, wanted)
