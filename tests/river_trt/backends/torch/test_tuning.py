"""What a load measures of the kernels' variants, with planted times: once, bounded."""

import json

import pytest

from river_trt.backends.torch import attention_tuning, tuning
from river_trt.backends.torch.tuner import (
    ATTENTION,
    PACKED_LINEAR,
    AttentionCase,
    LinearCase,
    TunedVariants,
)
from river_trt.errors import RiverError

VARIANTS = ("planted slow one", "fast")
HEAD_DIM, CAPACITY, MOST_ROWS = 32, 256, 3


@pytest.fixture
def program() -> str:
    linear = [None] * 3 + [{"of": "bank"}, 64, 64] + [None] * 4 + [False, None, True, True]
    attention = [None] * 8 + [4, 2, 0.1, 0, 0.0, None, None]
    bank = {"name": "bank", "op": "river_trt_cuda.pack.default", "args": [None, None, None, 128]}
    calls = [{"op": PACKED_LINEAR, "args": linear}, {"op": ATTENTION, "args": attention}]
    return json.dumps({"prepare": [bank], "calls": calls})


class Machine:
    """What a GPU would be asked and told."""

    def __init__(self) -> None:
        self.measured: list[object] = []
        self.set: dict[object, int] = {}
        self.heard: list[str] = []
        self.free = 1 << 40

    def measure(self, case: object, variant: int) -> float:
        self.measured.append(case)
        return (50.0, 5.0)[variant]

    def hear(self, stage: str, done: int, total: int) -> None:
        self.heard.append(f"{stage} {done}/{total}")

    def load(self, program: str) -> None:
        tuning.tune_at_load(program, HEAD_DIM, MOST_ROWS, CAPACITY, self.hear)


@pytest.fixture
def machine(tmp_path, monkeypatch) -> Machine:
    machine = Machine()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    linear = TunedVariants(LinearCase, "H100", 1, VARIANTS)
    attention = TunedVariants(AttentionCase, "H100", 1, VARIANTS)
    monkeypatch.setattr(tuning, "_linear", lambda: linear)
    monkeypatch.setattr(tuning, "_attention", lambda: attention)
    monkeypatch.setattr(tuning, "_set", machine.set.update)
    monkeypatch.setattr(tuning, "measure", machine.measure)
    monkeypatch.setattr(tuning, "free_bytes", lambda: machine.free)
    monkeypatch.setattr(attention_tuning, "set_variants", machine.set.update)
    monkeypatch.setattr(attention_tuning, "measure", machine.measure)
    return machine


def test_the_first_load_measures_and_the_next_one_does_not(machine, program):
    machine.load(program)
    cases = [
        *(LinearCase(64, 128, 64, rows, int8_activations=True) for rows in (1, 2, 4)),
        *(AttentionCase(rows, 4, 2, HEAD_DIM, CAPACITY, 0) for rows in (1, 2, 4)),
    ]
    assert machine.set == dict.fromkeys(cases, 1), "the planted slow one is not taken"
    assert len(machine.measured) == len(VARIANTS) * len(cases)
    stages = [
        f"measuring variants of {kernel} on this GPU, once" for kernel in ("linear", "attention")
    ]
    assert machine.heard == [f"{stage} {done}/3" for stage in stages for done in range(4)]
    machine.measured.clear()
    machine.heard.clear()
    machine.load(program)
    assert (machine.measured, machine.heard) == ([], [])
    assert machine.set == dict.fromkeys(cases, 1)


def test_a_wrong_entry_is_measured_again(machine, program):
    machine.load(program)
    machine.measured.clear()
    file = tuning._attention().file
    case = AttentionCase(2, 4, 2, HEAD_DIM, CAPACITY, 0)
    content = json.loads(file.read_text())
    content["choices"][case.key]["variant"] = "a variant of yesterday"
    file.write_text(json.dumps(content))
    machine.load(program)
    assert machine.measured == [case] * len(VARIANTS)
    assert machine.set[case] == 1


def test_no_shape_is_begun_when_the_time_is_over(machine, program, monkeypatch):
    monkeypatch.setattr(tuning, "SECONDS_AT_LOAD", 0.0)
    machine.load(program)
    assert (machine.measured, machine.set) == ([], {})
    assert len(machine.heard) == 2 and "at the next load" in machine.heard[0]


def test_what_has_no_memory_is_left_out_and_said(machine, program):
    machine.free = attention_tuning.bytes_of(AttentionCase(1, 4, 2, HEAD_DIM, CAPACITY, 0)) - 1
    machine.load(program)
    assert {type(case) for case in machine.measured} <= {LinearCase}
    assert sum("no memory is free to measure" in said for said in machine.heard) >= 3


def test_choices_that_cannot_be_kept_are_refused(machine, program, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(RiverError, match="cannot be kept .*RIVER_TRT_TUNE=0 to measure none"):
        machine.load(program)
    assert machine.measured == []


@pytest.mark.parametrize(("value", "tunes"), [(None, True), ("1", True), ("0", False)])
def test_a_way_to_say_no(monkeypatch, value, tunes):
    monkeypatch.delenv(tuning.TUNE_VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(tuning.TUNE_VARIABLE, value)
    assert tuning.tunes_at_load() is tunes
    monkeypatch.setenv(tuning.TUNE_VARIABLE, "no")
    with pytest.raises(RiverError, match="RIVER_TRT_TUNE must be 0 or 1, got 'no'"):
        tuning.tunes_at_load()


def test_rows_up_to_those_of_the_largest_recording():
    assert [tuning.buckets(tuning.LINEAR_ROWS, most) for most in (1, 2, 3, 8, 40)] == [
        *([1], [1, 2], [1, 2, 4]),
        *([1, 2, 4, 8], [1, 2, 4, 8]),
    ]
