"""A recorded program: what it computes, and what it refuses."""

import copy
import json

import pytest
import torch

from river_trt.backends.torch.program import OPERATORS, Program
from river_trt.errors import EngineError

DOCUMENT = {
    "format": 1,
    "inputs": ["x"],
    "prepare": [],
    "calls": [
        {
            "name": "product",
            "op": "aten.linear.default",
            "args": [{"of": "x"}, {"of": "layers.0.weight"}],
        },
        {"name": "halves", "op": "aten.chunk.default", "args": [{"of": "product"}, 2, -1]},
        {"name": "left", "op": "getitem", "args": [{"of": "halves"}, 0]},
        {"name": "right", "op": "getitem", "args": [{"of": "halves"}, 1]},
        {
            "name": "flags",
            "op": "aten.zeros_like.default",
            "args": [{"of": "left"}],
            "kwargs": {"dtype": {"dtype": "bool"}},
        },
        {"name": "sum", "op": "aten.add.Tensor", "args": [{"of": "left"}, {"of": "right"}]},
    ],
    "outputs": ["sum", "flags"],
}


def weights() -> dict[str, torch.Tensor]:
    return {"layers.0.weight": torch.arange(12.0).view(4, 3)}


def make(**changes: object) -> Program:
    return Program(json.dumps(DOCUMENT | changes), weights())


def test_it_runs_the_calls_in_their_order_again_and_again():
    program = make()
    assert program.inputs == ("x",)
    for x in (torch.ones(1, 3), torch.randn(5, 3)):
        total, flags = program([x])
        product = x @ weights()["layers.0.weight"].T
        torch.testing.assert_close(total, product[:, :2] + product[:, 2:])
        assert flags.dtype == torch.bool and flags.shape == total.shape


def test_nothing_is_held_after_its_last_use():
    program = make()
    last = {step.gives: step.dead for step in program._steps}
    dead = [slot for slots in last.values() for slot in slots]
    assert len(dead) == len(set(dead)) == 4  # product, halves, right, left
    assert all(value is None for value in program._values[1:])


def change(index: int, **changes: object) -> list[dict[str, object]]:
    calls = copy.deepcopy(DOCUMENT["calls"])
    calls[index] |= changes
    return calls


REFUSED = {
    "another operator": ({"calls": change(0, op="aten.set_.default")}, "calls 'aten.set_.default'"),
    "python": ({"calls": change(0, op="os.system")}, "calls 'os.system'"),
    "a future format": ({"format": 2}, "format 2 but this river-trt reads 1"),
    "an unknown value": ({"calls": change(5, args=[{"of": "y"}, 1])}, "has no tensor y"),
    "a name twice": ({"calls": change(5, name="left")}, "left is given twice"),
    "an unknown type": ({"calls": change(4, kwargs={"dtype": {"dtype": "quint8"}})}, "damaged"),
    "no output": ({"outputs": ["nothing"]}, "damaged"),
    "an unused weight": (
        {"calls": change(0, args=[{"of": "x"}, {"of": "x"}])},
        "no call of the program takes the weight layers.0.weight",
    ),
    "preparing by anything": (
        {
            "prepare": [
                {"name": "w", "op": "aten.add.Tensor", "args": [{"of": "layers.0.weight"}, 1]}
            ]
        },
        "it prepares w by aten.add.Tensor",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_program_of_ours_is_refused_in_one_sentence(name):
    changes, expected = REFUSED[name]
    with pytest.raises(EngineError) as error:
        make(**changes)
    assert expected in str(error.value) and len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"format": 1}', "[" * 100000])
def test_other_files_are_damaged(text):
    with pytest.raises(EngineError, match="rebuild the engine"):
        Program(text, weights())


def test_the_list_of_operators_has_nothing_that_writes_but_our_attention():
    for name in OPERATORS - {"getitem"}:
        assert not name.split(".")[1].endswith("_") or name.startswith("aten.__and__"), name
