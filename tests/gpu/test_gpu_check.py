"""The whole GPU check where there is a GPU, and its report where there is none."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.gpu import check

FACTS = {
    "date": "today",
    "commit": "c",
    "mode": "quick",
    "machine": {"device": "A", "torch": "2", "nvcc": "nvcc 13"},
}
SCRIPT = Path(__file__).parents[2] / "scripts" / "gpu_check.sh"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU on this machine")
def test_everything_on_this_gpu(tmp_path):
    done = subprocess.run([SCRIPT, "--out", tmp_path], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "gpu_check.json").read_text())
    assert {step["state"] for step in report["steps"]} == {"passed"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_without_a_gpu_it_says_so():
    done = subprocess.run([sys.executable, check.__file__], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: torch sees no GPU here; --dry-run does without one\n"


def test_it_imports_nothing_but_torch():
    """An H100 machine may have torch, nvcc and cmake, and no package of ours installed."""
    blocked = (
        "numpy",
        "tokenizers",
        "rich",
        "jinja2",
        "onnxruntime",
        "onnx",
        "pytest",
        "river_trt",
    )
    for module in ("check", "check_operators", "kernel_checks", "check_aoti", "decode_bench"):
        code = (
            f"import sys\nfor name in {blocked}: sys.modules[name] = None\n"
            f"sys.path.insert(0, {str(SCRIPT.parents[1])!r})\nimport tests.gpu.{module}"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, f"{module}: {done.stderr}"


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def step(name: str, command: list[str], limit_s: int = 30, **changes: object) -> check.Step:
    return check.Step(name, ("kernels",), command, limit_s, **changes)


def test_a_fault_of_any_step_loses_nothing_of_the_others(tmp_path):
    good = python("open('kernels.md', 'w').write('table'); print('fine')")
    good[2] = good[2].replace("kernels.md", str(tmp_path / "kernels.md"))
    steps = [
        step("good", good),
        step("bad", python("raise SystemExit('broken')")),
        step("crash", python("import os; print('before', flush=True); os.abort()")),
        step("slow", python("import time; print('began', flush=True); time.sleep(30)"), 2),
        step("absent", ["/nowhere/program"]),
        step("tool", ["true"], needs="no-such-tool"),
        step("last", python("print('last')")),
    ]
    reports = []

    def report(outcomes: list[check.Outcome]) -> None:
        check.write_report(tmp_path, FACTS, outcomes)
        reports.append(json.loads((tmp_path / "gpu_check.json").read_text())["steps"])

    check.run_all(steps, tmp_path, 60, report=report)
    assert [len(steps) for steps in reports] == list(range(1, 8)), "written after each step"
    outcomes = {outcome["name"]: outcome for outcome in reports[-1]}
    assert [outcome["state"] for outcome in outcomes.values()] == [
        *("passed", *["failed"] * 5, "passed")
    ]
    details = {name: outcome["detail"] for name, outcome in outcomes.items()}
    assert details["good"] == "fine\n"
    assert "broken" in details["bad"] and "exit code 1" in details["bad"]
    assert details["crash"] == "before\n\nended by SIGABRT"
    assert details["slow"] == "began\n\ntook longer than 2 s"
    assert details["absent"] == "/nowhere/program: No such file or directory"
    assert details["tool"] == "no no-such-tool on this machine"
    text = (tmp_path / "gpu_check.md").read_text()
    assert "## Kernels\n\ntable\n" in text and "## crash failed\n\n```\nbefore\n" in text
    assert (tmp_path / "logs" / "03-crash.log").read_text() == "before\n"


def test_no_step_starts_when_the_time_is_over(tmp_path):
    (outcome,) = check.run_all([step("late", ["true"])], tmp_path, 0.5)
    assert (outcome.state, outcome.detail) == ("failed", "no time left")


def test_a_dry_run_takes_the_other_command_or_says_that_it_needs_a_gpu(tmp_path):
    steps = [
        step("runs", ["/nowhere/program"], dry=python("print('dry')")),
        step("gpu", ["/nowhere/program"]),
    ]
    dry, gpu = check.run_all(steps, tmp_path, 60, dry_run=True)
    assert (dry.state, dry.detail) == ("passed", "dry\n")
    assert (gpu.state, gpu.detail) == ("skipped", "needs a GPU")


def test_every_part_has_steps_and_knows_its_library(tmp_path):
    steps = check.make_steps(tmp_path, "90", Path("/torch"), "quick")
    longer = check.make_steps(tmp_path, "90", Path("/torch"), "full")
    assert {part for step in longer for part in step.parts} == set(check.PARTS)
    assert len({step.name for step in longer}) == len(longer)
    assert sum(step.dry is not None for step in longer) >= len(check.PARTS)
    assert [step.name for step in longer][: len(steps)] == [step.name for step in steps]
    only_full = {step.name.partition(":")[0] for step in longer[len(steps) :]}
    assert only_full == {"speed", "decode"}, "building a model takes too long for --quick"
