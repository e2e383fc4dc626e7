"""A task that was interrupted goes on where it was."""

import json

import pytest

from builders.tasks import TaskRun, answers, evaluate_task, gsm8k
from river_trt.errors import RiverError
from tests.builders.tiny_engines import build_pair


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return build_pair(tmp_path_factory.mktemp("pair"), with_tokenizer=True).engine


@pytest.fixture
def questions(tmp_path, monkeypatch):
    """Three short ones; the eight examples are longer than a tiny cache."""
    monkeypatch.setattr("builders.tasks.gsm8k.EXAMPLES", ())
    path = tmp_path / "q.jsonl"
    records = [{"question": f"w{n} w2", "answer": f"#### {n}"} for n in range(3)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_only_what_has_no_answer_is_asked(engine, questions, tmp_path, monkeypatch):
    kept = tmp_path / "kept.jsonl"
    run = TaskRun("gsm8k", questions, resume=kept, max_new_tokens=4)
    quiet = lambda *_: None  # noqa: E731
    whole = evaluate_task(engine, TaskRun("gsm8k", questions, max_new_tokens=4), quiet)

    asked: list[object] = []
    generate = engine.generate

    def stopping(prompts, config):
        if len(asked) == 4:
            raise KeyboardInterrupt
        asked.append(prompts)
        return generate(prompts, config)

    monkeypatch.setattr(engine, "generate", stopping)
    with pytest.raises(KeyboardInterrupt):
        evaluate_task(engine, run, quiet)
    with kept.open("a") as file:
        file.write('{"policy": "all ri')  # the line that was being written
    monkeypatch.setattr(engine, "generate", lambda *a: asked.append(a) or generate(*a))
    assert evaluate_task(engine, run, quiet) == whole
    assert len(asked) == 9  # three policies, three questions
    assert evaluate_task(engine, run, quiet) == whole and len(asked) == 9

    other = TaskRun("gsm8k", questions, resume=kept, max_new_tokens=5)
    with pytest.raises(RiverError, match="of another run: its max_new_tokens is another; give --r"):
        evaluate_task(engine, other, quiet)
    kept.write_text("no answers\n")
    with pytest.raises(RiverError, match="holds no answers that a task has kept"):
        evaluate_task(engine, run, quiet)
    with pytest.raises(RiverError, match="cannot keep answers in .*: Is a directory"):
        answers.Answers.open(tmp_path, {})
    assert gsm8k.EXAMPLES == ()
