import json
from decimal import Decimal

import pytest

from builders.tasks.gsm8k import (
    EXAMPLES,
    Question,
    is_correct,
    last_number,
    messages,
    prompt,
    read_questions,
)
from river_trt.errors import RiverError


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is 18.", "18"),
        ("so $1,234.50 in all", "1234.50"),
        ("3 + 4 = 7\n#### -7", "-7"),
        ("$-5", "-5"),
        ("10,000,000", "10000000"),
        ("she has 12, then 5.", "5"),
        ("x=0.5", "0.5"),
    ],
)
def test_last_number(text, number):
    assert last_number(text) == Decimal(number)


def test_no_number():
    assert last_number("none at all") is None
    assert not is_correct(Question("q", Decimal(3)), "I do not know", chat=False)


def test_equal_numbers_of_other_form_are_right():
    assert is_correct(Question("q", Decimal(70000)), "He pays $70,000.00.", chat=False)
    assert not is_correct(Question("q", Decimal(3)), "3 of the 4", chat=False)


def test_the_examples_are_eight_and_their_own_work_gives_the_answer():
    assert len(EXAMPLES) == 8
    for _, work, answer in EXAMPLES:
        assert last_number(work) == Decimal(answer)


def test_prompt_and_chat_ask_the_same():
    text, chat = prompt("How many?"), messages("How many?")
    assert text.count("Question:") == 9 and text.endswith("Question: How many?\nAnswer:")
    assert [m["role"] for m in chat] == ["user", "assistant"] * 8 + ["user"]
    for question, work, answer in EXAMPLES:
        assert f"{question}\nAnswer: {work} The answer is {answer}.\n" in text
    assert chat[-1]["content"] == "How many?"


def test_reading(tmp_path):
    path = tmp_path / "q.jsonl"
    record = {"question": "q", "answer": "3 * 4 = <<3*4=12>>12\n#### 1,200"}
    path.write_text(json.dumps(record))
    assert read_questions(path) == [Question("q", Decimal(1200))]
    path.write_text(json.dumps(record | {"answer": "#### none"}))
    with pytest.raises(RiverError, match="record 1: field 'answer' holds no number"):
        read_questions(path)
    path.write_text(json.dumps({"question": "q"}))
    with pytest.raises(RiverError, match="line 1 has no field 'answer'; its fields: question"):
        read_questions(path)
