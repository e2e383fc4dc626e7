"""The tuner: it picks the fastest variant, keeps its choices, and notices a cache that is wrong."""

import json

import pytest

from river_trt.backends.torch.tuner import (
    ATTENTION,
    PACKED_LINEAR,
    AttentionCase,
    LinearCase,
    TunedVariants,
    attention_cases,
    linear_cases,
)
from river_trt.errors import EngineError

CASE = LinearCase(64, 128, 64, 1, int8_activations=True)
OTHER = LinearCase(64, 128, 64, 4, int8_activations=True)
VARIANTS = ("few warps", "planted slow one", "many warps")


@pytest.fixture
def tuned(tmp_path, monkeypatch) -> TunedVariants[LinearCase]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return TunedVariants(LinearCase, "NVIDIA H100 80GB HBM3", 7, VARIANTS)


class Card:
    """Times by variant, and how often it was asked."""

    def __init__(self, *times: float) -> None:
        self.times, self.asked = times, 0

    def __call__(self, case: LinearCase, variant: int) -> float:
        self.asked += 1
        return self.times[variant]


def test_the_planted_slow_variant_is_not_taken(tuned):
    assert tuned.choose([CASE], Card(5.0, 50.0, 4.0)) == {CASE: 2}
    assert tuned.choose([OTHER], Card(5.0, 50.0, float("inf"))) == {OTHER: 0}


def test_a_second_run_measures_nothing(tuned):
    tuned.choose([CASE], Card(5.0, 50.0, 4.0))
    card = Card(1.0, 2.0, 3.0)
    assert tuned.choose([CASE, CASE], card) == {CASE: 2}
    assert card.asked == 0
    assert tuned.choose([CASE, OTHER], card) == {CASE: 2, OTHER: 0}
    assert card.asked == len(VARIANTS)


def test_other_kernels_and_other_cards_measure_for_themselves(tuned):
    tuned.choose([CASE], Card(5.0, 50.0, 4.0))
    for card, version in ((tuned.card, 8), ("A100", 7)):
        changed = TunedVariants(LinearCase, card, version, VARIANTS)
        assert changed.choose([CASE], Card(1.0, 2.0, 3.0)) == {CASE: 0}


@pytest.mark.parametrize(
    "entry",
    [
        {"variant": "no such variant", "microseconds": 1.0},
        {"variant": 2, "microseconds": 1.0},
        {"variant": "few warps", "microseconds": -1.0},
        {"variant": "few warps", "microseconds": float("nan")},
        {"variant": "few warps"},
        None,
    ],
)
def test_a_wrong_entry_is_measured_again(tuned, entry):
    tuned.choose([CASE, OTHER], Card(5.0, 50.0, 4.0))
    content = json.loads(tuned.file.read_text())
    content["choices"][CASE.key] = entry
    tuned.file.write_text(json.dumps(content))
    card = Card(9.0, 1.0, 3.0)
    assert tuned.choose([CASE, OTHER], card) == {CASE: 1, OTHER: 2}
    assert card.asked == len(VARIANTS)


@pytest.mark.parametrize("change", [{"card": "another"}, {"version": 6}, {"format": 1}])
def test_a_file_of_something_else_is_not_believed(tuned, change):
    tuned.choose([CASE], Card(5.0, 50.0, 4.0))
    tuned.file.write_text(json.dumps(json.loads(tuned.file.read_text()) | change))
    assert tuned.read() == {}


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000])
def test_a_broken_file_is_not_believed(tuned, text):
    tuned.choose([CASE], Card(1.0, 2.0, 3.0))
    tuned.file.write_text(text)
    assert tuned.choose([CASE], Card(5.0, 50.0, 4.0)) == {CASE: 2}


def test_a_file_that_others_may_write_is_not_believed(tuned):
    tuned.choose([CASE], Card(5.0, 50.0, 4.0))
    tuned.file.chmod(0o666)
    assert tuned.read() == {}


def test_no_variant_at_all_is_said(tuned):
    with pytest.raises(RuntimeError, match="64x128 g64 rows 1 int8"):
        tuned.choose([CASE], Card(*[float("inf")] * 3))


def test_the_cases_of_a_program_are_its_packed_banks():
    call = {
        "op": PACKED_LINEAR,
        "args": [None] * 3 + [{"of": "bank"}, 64, 64] + [None] * 4 + [False, None, True, True],
    }
    bank = {"name": "bank", "op": "river_trt_cuda.pack.default", "args": [None, None, None, 128]}
    text = json.dumps({"prepare": [bank], "calls": [call, call, {"op": "other", "args": []}]})
    assert linear_cases(text, 1) == [CASE]
    with pytest.raises(EngineError, match="damaged"):
        linear_cases(json.dumps({"prepare": [], "calls": [call]}), 1)


def test_what_is_cached_is_used_at_load(tuned):
    tuned.choose([CASE, OTHER], Card(5.0, 50.0, 4.0))
    assert tuned.known() == {CASE: 2, OTHER: 2}
    content = json.loads(tuned.file.read_text())
    content["choices"]["64x128 rows 1"] = content["choices"][CASE.key]
    tuned.file.write_text(json.dumps(content))
    assert tuned.known() == {CASE: 2, OTHER: 2}, "a key of another form is left out"


def test_nothing_is_begun_after_the_deadline(tuned):
    heard = []
    card = Card(5.0, 50.0, 4.0)
    chosen = tuned.choose([CASE], card, lambda *said: heard.append(said), deadline=0.0)
    assert (chosen, card.asked) == ({}, 0)
    assert heard == [("no time is left: 1 shapes of linear are measured at the next load", 0, 0)]
    assert tuned.choose([CASE], card) == {CASE: 2}


def test_the_kernels_have_a_file_each(tuned):
    attention = TunedVariants(AttentionCase, tuned.card, 7, VARIANTS)
    case = AttentionCase(2, 8, 2, 64, 4096, 0)
    assert attention.choose([case], Card(5.0, 50.0, 4.0)) == {case: 2}
    tuned.choose([CASE], Card(1.0, 50.0, 4.0))
    assert (attention.known(), tuned.known()) == ({case: 2}, {CASE: 0})


@pytest.mark.parametrize("window", [0, 512])
def test_the_cases_of_a_program_are_its_attentions(window):
    call = {"op": ATTENTION, "args": [None] * 8 + [8, 2, 0.1, window, 0.0, None, None]}
    text = json.dumps({"calls": [call, call, {"op": "other", "args": []}]})
    case = AttentionCase(4, 8, 2, 64, 4096, window)
    assert attention_cases(text, 4, 64, 4096) == [case]
    assert AttentionCase.from_key(case.key) == case
    assert AttentionCase.from_key(CASE.key) is None
    with pytest.raises(EngineError, match="damaged"):
        attention_cases(json.dumps({"calls": [{"op": ATTENTION, "args": []}]}), 1, 64, 4096)
