"""`evaluate` from its arguments to its table, JSON and page, on a tiny engine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from river_trt.cli.main import main
from river_trt.origin import this_build
from tests.builders.tiny_engines import build_pair

TEXT = " ".join(f"w{(3 * n) % 100}" for n in range(90))
SHORT = ["--piece-tokens", "24", "--skip", "4", "--pieces", "3"]


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("work")
    build_pair(directory, with_tokenizer=True)
    (directory / "a.txt").write_text(TEXT)
    (directory / "short.txt").write_text("w1 w2 w3")
    (directory / "empty.txt").write_text("")
    (directory / "latin.txt").write_bytes("für".encode("latin-1"))
    (directory / "fields.jsonl").write_text('{"text": "w1"}\n{"prompt": "w1", "id": 3}\n')
    (directory / "q.jsonl").write_text(
        "\n".join(json.dumps({"question": f"w{n}", "answer": f"#### {n}"}) for n in range(3))
    )
    return directory


def run(work: Path, *argv: str) -> int:
    return main(["evaluate", *(item.format(work=work) for item in argv)])


def test_table(capsys, work):
    assert run(work, "{work}/engine", "--text", "{work}/a.txt", *SHORT, "--tau", "0.5") == 0
    captured = capsys.readouterr()
    for text in ("backbone", "all river", "River", "tau 0.5", "perplexity", "K, all river"):
        assert text in captured.out
    assert captured.err == "scoring\n"


def test_json_of_engine_and_reference_agree(capsys, work):
    """Their rivers differ (groups of 32, and the recipe's 64), their backbones do not."""
    found = []
    for subject in (["{work}/engine"], ["--model", "{work}/model", "--quantiser", "rtn"]):
        argv = [*subject, "--text", "{work}/a.txt", *SHORT, "--tau", "0.5", "--json"]
        assert run(work, *argv) == 0
        found.append(json.loads(capsys.readouterr().out))
    engine, _ = found
    assert [r["name"] for r in engine] == ["backbone", "all river", "River", "tau 0.5"]
    one, other = (results[0]["perplexity"]["value"] for results in found)
    assert one == pytest.approx(other, rel=1e-3)
    assert engine[0]["policy"]["tau"] == ["inf"] * 4
    assert engine[2]["policy"]["pinned"] == [4]
    # Pieces of 24, 24 and 18 tokens: all with a next token, less the first 4.
    assert engine[0]["positions"] == 19 + 19 + 13 == sum(engine[0]["exit_counts"])


def test_report(capsys, work, tmp_path):
    page = tmp_path / "report.html"
    assert run(work, "{work}/engine", "--text", "{work}/a.txt", *SHORT, "--report", str(page)) == 0
    html = page.read_text()
    for text in ("Speed against quality", "exit after layer 2", "Similarity of each layer", "w33"):
        assert text in html
    assert str(page) in capsys.readouterr().out


def test_gsm8k(capsys, work):
    argv = ["{work}/engine", "--task", "gsm8k", "--data", "{work}/q.jsonl", "--limit", "2"]
    assert run(work, *argv, "--max-new-tokens", "3", "--max-seq-len", "128", "--json") == 2
    assert "the prompt has" in capsys.readouterr().err  # eight examples are longer than 128 words


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("{work}/engine", "give --text FILE or --task NAME, one of them"),
        ("{work}/engine --text a --task gsm8k", "give --text FILE or --task NAME, one of them"),
        ("--text {work}/a.txt", "give one engine directory, or --model for the torch reference"),
        ("{work}/engine --model demo --text a", "give one engine directory, or --model"),
        ("{work}/engine --text {work}/none.txt", "none.txt cannot be read: No such file"),
        ("{work}/engine --text {work}/empty.txt", "empty.txt is empty; give it some text"),
        ("{work}/engine --text {work}/latin.txt", "latin.txt is not UTF-8 text (byte 1)"),
        (
            "{work}/engine --text {work}/short.txt",
            "pieces of 256 tokens are longer than the model's 128",
        ),
        (
            "{work}/engine --text {work}/short.txt --piece-tokens 64",
            "short.txt is too short: its longest text has 3 tokens; 34 are needed",
        ),
        (
            "{work}/engine --text {work}/fields.jsonl",
            "fields.jsonl, line 2 has no field 'text'; its fields: prompt, id",
        ),
        ("{work}/engine --text {work}/a.txt --pieces 0", "pieces must be at least 1, got 0"),
        ("{work}/engine --text {work}/a.txt --skip 300", "pieces of 256 tokens leave nothing to"),
        ("{work}/engine --text {work}/a.txt --piece-tokens 64 --tau nan", "tau holds NaN"),
        ("{work}/engine --text {work}/a.txt --piece-tokens 64 --tau 1,2", "tau has 2 values"),
        ("{work}/engine --text {work}/a.txt --chat", "--chat belongs to --task"),
        (
            "{work}/engine --text {work}/a.txt --report {work}/no/r.html",
            "/no is not a directory",
        ),
        ("{work}/engine --text {work}/a.txt --report {work}", "work0: it is a directory"),
        ("{work}/engine --text {work}/a.txt --quantiser rtn", "--quantiser goes with --model"),
        ("--model {work}/model --text {work}/a.txt --piece-tokens 999", "999 tokens are longer"),
        ("{work}/engine --text {work}/a.txt --max-seq-len 64", "--max-seq-len belongs to --task"),
        ("--model {work}/model --text {work}/a.txt --quantiser gptq", "quantiser 'gptq' is not"),
        ("{work}/none --text {work}/a.txt", "none is not a directory"),
        ("{work}/engine --task mmlu", "task 'mmlu' is not offered; choose one of gsm8k, humaneval"),
        ("{work}/engine --task gsm8k", "gsm8k needs its questions: --data FILE (JSONL)"),
        ("{work}/engine --task gsm8k --data {work}/none", "none cannot be read: No such file"),
        (
            "{work}/engine --task gsm8k --data {work}/fields.jsonl",
            "fields.jsonl, line 1 has no field 'question'; its fields: text",
        ),
        (
            "{work}/engine --task humaneval --data {work}/q.jsonl",
            "humaneval runs code that the model writes; --allow-code allows it",
        ),
        (
            "{work}/engine --task humaneval --data {work}/q.jsonl --allow-code",
            "q.jsonl, line 1 has no field 'task_id'; its fields: question, answer",
        ),
        ("{work}/engine --task gsm8k --data {work}/q.jsonl --limit 0", "--limit must be at least"),
        (
            "{work}/engine --task gsm8k --data {work}/q.jsonl --max-new-tokens 0",
            "--max-new-tokens must be at least 1, got 0",
        ),
        (
            "{work}/engine --task gsm8k --data {work}/q.jsonl --chat",
            "the model has no chat template",
        ),
        ("{work}/engine --task lm-eval:x --data {work}/q.jsonl", "an lm-eval task brings its own"),
        ("{work}/engine --task lm-eval:x --task-path {work}/no", "no is not a directory of task"),
        ("--model demo --task gsm8k --data {work}/q.jsonl", "--model goes with --text; a task"),
    ],
)
def test_bad_input_is_one_sentence(capsys, work, argv, message):
    assert run(work, *argv.split()) == 2
    captured = capsys.readouterr()
    error = captured.err.splitlines()[-1]
    assert captured.out == "" and error.startswith("error: ") and message in error
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    ("package", "argv", "extra"),
    [
        ("torch", ["--text", "a.txt"], "build"),
        ("lm_eval", ["--task", "lm-eval:hellaswag"], "evaluate"),
    ],
)
def test_missing_extra(work, package, argv, extra):
    code = f"""
import sys
sys.modules[{package!r}] = None  # as if it were not installed
from river_trt.cli.main import main
sys.exit(main(["evaluate", "engine", *{argv!r}]))
"""
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=work,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].endswith(
        f"needs {package}, which is not installed: {this_build().install(extra)}"
    )
