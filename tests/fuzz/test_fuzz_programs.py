"""Recorded programs that anyone can have written: a sentence, or tensors."""

import json
from collections import Counter

import torch
from hypothesis import given
from hypothesis import strategies as st

from river_trt import EngineError
from river_trt.backends.torch.program import ATEN, OPERATORS, Program
from tests.fuzz.budget import fuzzing, report
from tests.fuzz.test_fuzz_files import CHANGES, EDITS, changed, edited, one_line
from tests.river_trt.backends.torch.test_program import DOCUMENT, weights

NAMES = ("x", "layers.0.weight", "product", "halves", "left", "right", "flags", "sum", "new", "y")
ARGUMENTS = st.recursive(
    st.sampled_from([{"of": name} for name in NAMES])
    | st.sampled_from([None, True, 0, 1, 2, 3, -1, 2**31, 2**63, -(2**63), 10**30, 0.5, "x", ""])
    | st.sampled_from([{"dtype": name} for name in ("bool", "int64", "float16", "quint8")])
    | st.floats(),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
OPS = st.sampled_from([*(f"aten.{name}" for name in ATEN), "getitem"]) | st.sampled_from(
    [*sorted(OPERATORS), "aten.set_.default", "os.system", "getitem.x", ""]
)
CALL = st.fixed_dictionaries(
    {"name": st.sampled_from(NAMES), "op": OPS, "args": st.lists(ARGUMENTS, max_size=4)},
    optional={"kwargs": st.dictionaries(st.sampled_from(["dtype", "alpha", "x"]), ARGUMENTS)},
)
MORE_CALLS = st.lists(st.tuples(st.integers(0, 6), CALL), max_size=3)


def check_program(text: str) -> str:
    try:
        program = Program(text, weights())
        outputs = program([torch.ones(2, 3) for _ in program.inputs])
    except EngineError as error:
        return one_line(error)
    assert isinstance(outputs, list)
    return "run"


def test_programs():
    outcomes = Counter()

    @fuzzing(600)
    @given(CHANGES | st.just([]), MORE_CALLS, EDITS)
    def fuzz(changes, more, edits):
        document = json.loads(json.dumps(DOCUMENT))
        for place, call in more:
            document["calls"].insert(place, call)
            document["outputs"].append(call["name"])
        outcomes[check_program(edited(changed(document, changes), edits))] += 1

    fuzz()
    report("recorded programs", outcomes.total(), f"{dict(outcomes)}")
    assert set(outcomes) == {"refused", "run"}
