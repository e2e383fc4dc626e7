import json

import pytest

from builders.tasks.humaneval import Problem, passes, program, read_problems
from river_trt.errors import RiverError

PROBLEM = Problem(
    task_id="T/0",
    prompt='import math\n\ndef half(x: float) -> float:\n    """Half of x."""\n',
    entry_point="half",
    test="def check(candidate):\n    assert candidate(3) == 1.5\n    assert candidate(0) == 0\n",
)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("    return x / 2\n", True),
        ("    return math.fsum([x]) * 0.5\n", True),
        ("    return x // 2\n", False),
        ("    return y\n", False),
        ("    return (\n", False),  # no Python at all
        ("", False),
        ("    raise SystemExit(0)\n", False),  # to end well before the tests is no pass
        ("    import os; os._exit(0)\n", False),
    ],
)
def test_completion(answer, right):
    assert passes(PROBLEM, answer, chat=False) is right


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("Here:\n```python\ndef half(x):\n    return math.fsum([x]) / 2\n```\nDone.", True),
        ("```\ndef half(x):\n    return x\n```", False),
        ("```py\n    return x / 2\n```", True),  # the body alone
        ("def half(x):\n    return x / 2", True),  # no block
        ("I cannot.", False),
    ],
)
def test_chat(answer, right):
    assert passes(PROBLEM, answer, chat=True) is right


def test_the_tests_are_not_in_the_program():
    made = program(PROBLEM, "    return x / 2\n", chat=False)
    assert made.source.startswith(PROBLEM.prompt) and "check" not in made.source
    assert "import math" in made.test and PROBLEM.test in made.test


def test_tests_may_call_what_stands_above_the_function():
    helped = Problem(
        task_id="T/1",
        prompt="def shift(s: str):\n    return s[1:] + s[:1]\n\n\ndef back(s: str):\n",
        entry_point="back",
        test="def check(candidate):\n    assert candidate(shift('abc')) == 'abc'\n",
    )
    assert passes(helped, "    return s[-1:] + s[:-1]\n", chat=False)
    assert not passes(helped, "    return s\n", chat=False)


def test_reading(tmp_path):
    record = {"task_id": "T/0", "prompt": "p", "entry_point": "e", "test": "t", "more": 1}
    (tmp_path / "p.jsonl").write_text(json.dumps(record))
    assert read_problems(tmp_path / "p.jsonl") == [Problem("T/0", "p", "e", "t")]
    del record["entry_point"]
    (tmp_path / "p.jsonl").write_text(json.dumps(record))
    with pytest.raises(RiverError, match="line 1 has no field 'entry_point'; its fields: task_id"):
        read_problems(tmp_path / "p.jsonl")
