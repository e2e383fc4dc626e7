"""What a session is asked for, and the policy's arrays, written only where they change."""

import numpy as np
import pytest

from river_trt.backends.base import Step
from river_trt.backends.policy_buffers import PolicyBuffers
from river_trt.errors import RiverError
from river_trt.spec import POLICY_INPUTS, STEP_INPUTS, ExitPolicy, GateScope

LAYERS, HIDDEN = 3, 4
FULL = ExitPolicy.full_depth(LAYERS)


def directed(value: float) -> ExitPolicy:
    return ExitPolicy(FULL.tau, FULL.pinned, np.full((LAYERS, HIDDEN), value, np.float32))


def test_a_whole_step_asks_for_all_logits_from_a_filled_cache():
    step = Step.whole(np.arange(6).reshape(2, 3), FULL, first_row=1, past_length=5)
    assert (step.rows, step.seq, step.num_logits, step.slots) == (2, 3, 3, 8)
    assert list(step.inputs) == list(STEP_INPUTS) and step.gate_scope is GateScope.TOKEN
    alone = step.row(1)
    assert alone.input_ids.tolist() == [[3, 4, 5]] and alone.first_row == 2
    assert alone.past_lengths.tolist() == [5] and alone.policy is FULL


@pytest.mark.parametrize(
    "change",
    [
        {"input_ids": np.zeros((2, 1), np.int32)},
        {"past_lengths": np.zeros(1, np.int32)},
        {"past_lengths": np.zeros(2, np.int64)},
        {"logit_indices": np.zeros(1, np.int32)},
    ],
)
def test_arrays_of_another_type_or_length_are_our_own_mistake(change):
    fields = {
        "input_ids": np.zeros((2, 1), np.int64),
        "first_row": 0,
        "past_lengths": np.zeros(2, np.int32),
        "logit_indices": np.zeros(1, np.int64),
        "policy": FULL,
    }
    Step(**fields)
    with pytest.raises(AssertionError):
        Step(**fields | change)


def test_scopes_have_the_names_that_users_give():
    assert [GateScope.named(n) for n in ("token", "sequence", "batch")] == [0, 1, 2]
    with pytest.raises(RiverError, match="one of token, sequence, batch, got 'row'"):
        GateScope.named("row")


def test_buffers_are_written_in_place_and_name_what_changed():
    buffers = PolicyBuffers(LAYERS, HIDDEN)
    arrays = dict(buffers.arrays)
    assert list(arrays) == list(POLICY_INPUTS)
    assert buffers.write(FULL, GateScope.TOKEN) == ("tau",)
    assert buffers.write(FULL, GateScope.TOKEN) == ()
    assert buffers.write(FULL, GateScope.BATCH) == ("gate_scope",)
    river = ExitPolicy.all_river(np.array([False, True, False]))
    assert buffers.write(river, GateScope.BATCH) == ("tau", "pinned")
    assert all(buffers.arrays[name] is array for name, array in arrays.items())
    assert arrays["pinned"].tolist() == [False, True, False] and arrays["gate_scope"] == 2


def test_directions_stay_while_the_similarity_gate_runs():
    buffers = PolicyBuffers(LAYERS, HIDDEN)
    ones = directed(1.0)
    assert set(buffers.write(ones, GateScope.TOKEN)) == {"tau", "use_directions", "directions"}
    assert buffers.write(FULL, GateScope.TOKEN) == ("use_directions",)
    assert buffers.write(ones, GateScope.TOKEN) == ("use_directions",)
    assert buffers.write(directed(2.0), GateScope.TOKEN) == ("directions",)
    assert (buffers.arrays["directions"] == 2).all()


def test_a_policy_changed_in_place_is_seen():
    buffers, policy = PolicyBuffers(LAYERS, HIDDEN), ExitPolicy.uniform(LAYERS, 0.5)
    buffers.write(policy, GateScope.TOKEN)
    policy.tau[1] = 0.9
    assert buffers.write(policy, GateScope.TOKEN) == ("tau",)


def test_buffers_over_memory_of_the_session():
    place = np.full(LAYERS, 7, np.int32)  # page-locked memory comes with anything in it
    buffers = PolicyBuffers(LAYERS, HIDDEN, {"pinned": place})
    assert buffers.arrays["pinned"] is place and (place == 0).all()
    river = ExitPolicy.all_river(np.array([False, True, False]))
    assert "pinned" in buffers.write(river, GateScope.TOKEN) and place.tolist() == [0, 1, 0]
    assert buffers.write(river, GateScope.TOKEN) == ()
    with pytest.raises(AssertionError):
        PolicyBuffers(LAYERS, HIDDEN, {"tau": np.zeros(LAYERS + 1, np.float32)})
