"""A task that was interrupted goes on where it was."""

import json

import pytest

from builders.tasks import TaskRun, answers, evaluate_task, gsm8k
from builders.tasks.asking import TOGETHER, ask_all
from river_trt import GenerationConfig, load
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


def test_questions_together_are_answered_as_alone(questions, tmp_path):
    directory = build_pair(tmp_path, with_tokenizer=True).directory
    run = TaskRun("gsm8k", questions, max_new_tokens=4)
    alone, together = (load(directory, **options) for options in ({"max_batch_size": 1}, TOGETHER))
    config = GenerationConfig(max_new_tokens=4, temperature=0.0)
    prompts = {n: f"w1 w2 w3 w{n} w5" for n in range(20)}
    found = {n: result.token_ids for n, result in ask_all(together, prompts, config)}
    assert found == {n: alone.generate([p], config)[0].token_ids for n, p in prompts.items()}
    quiet = lambda *_: None  # noqa: E731
    assert evaluate_task(together, run, quiet) == evaluate_task(alone, run, quiet)
    with pytest.raises(RiverError, match="prompt"):
        list(ask_all(together, {1: "w1 " * 10_000}, config))
    assert together.generate(["w1"], config)  # the engine is free again


def test_only_what_has_no_answer_is_asked(engine, questions, tmp_path, monkeypatch):
    kept = tmp_path / "kept.jsonl"
    run = TaskRun("gsm8k", questions, resume=kept, max_new_tokens=4)
    quiet = lambda *_: None  # noqa: E731
    whole = evaluate_task(engine, TaskRun("gsm8k", questions, max_new_tokens=4), quiet)

    def stopping(stage, done, total):
        if stage == "gsm8k, all river" and done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_task(engine, run, stopping)
    with kept.open("a") as file:
        file.write('{"policy": "all ri')  # the line that was being written
    asked: list[int] = []

    def counting(engine, prompts, config):
        asked.append(len(prompts))
        return ask_all(engine, prompts, config)

    monkeypatch.setattr("builders.tasks.run.ask_all", counting)
    assert evaluate_task(engine, run, quiet) == whole
    assert asked == [0, 2, 3]  # of three questions to three policies
    assert evaluate_task(engine, run, quiet) == whole and asked[3:] == [0, 0, 0]

    other = TaskRun("gsm8k", questions, resume=kept, max_new_tokens=5)
    with pytest.raises(RiverError, match="of another run: its max_new_tokens is another; give --r"):
        evaluate_task(engine, other, quiet)
    kept.write_text("no answers\n")
    with pytest.raises(RiverError, match="holds no answers that a task has kept"):
        evaluate_task(engine, run, quiet)
    with pytest.raises(RiverError, match="cannot keep answers in .*: Is a directory"):
        answers.Answers.open(tmp_path, {})
    assert gsm8k.EXAMPLES == ()
