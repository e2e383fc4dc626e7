"""The whole GPU check where there is a GPU, and its report where there is none."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.gpu import check

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
    assert done.stderr == "error: torch sees no GPU here; --dry-run compiles without one\n"


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


def test_steps_that_fail_hang_or_cannot_run_are_told_apart():
    steps = [
        check.Step("good", [sys.executable, "-c", "print('fine')"], 30),
        check.Step("bad", [sys.executable, "-c", "raise SystemExit('broken')"], 30),
        check.Step("slow", [sys.executable, "-c", "import time; time.sleep(30)"], 1),
        check.Step("absent", ["/nowhere/program"], 30),
        check.Step("tool", ["true"], 30, needs="no-such-tool"),
        check.Step("runs", ["/nowhere/program"], 30, on_dry_run=False),
    ]
    outcomes = {outcome.name: outcome for outcome in check.run_all(steps, 60, dry_run=True)}
    assert [outcome.state for outcome in outcomes.values()] == [
        *("passed", "failed", "failed", "failed", "failed", "skipped")
    ]
    assert outcomes["good"].detail == "fine\n"
    assert "broken" in outcomes["bad"].detail
    assert outcomes["slow"].detail == "took longer than 1 s"
    assert outcomes["tool"].detail == "no no-such-tool on this machine"
    assert check.run(steps[0], 0.5).detail == "no time left"


def test_the_report_holds_the_steps_and_the_kernels(tmp_path):
    outcomes = [
        check.Outcome("kernels", "failed", 1.5, "replay 3 differs"),
        check.Outcome("compare", "skipped", 0.0, "dry run"),
    ]
    machine = {"device": "A", "torch": "2", "nvcc": "nvcc 13"}
    check.write_report(tmp_path, machine, outcomes)
    assert "Nothing was measured." in (tmp_path / "gpu_check.md").read_text()
    (tmp_path / "kernels.json").write_text('{"roofline": [1]}')
    (tmp_path / "kernels.md").write_text("| table |\n")
    check.write_report(tmp_path, machine, outcomes)
    text = (tmp_path / "gpu_check.md").read_text()
    assert "| compare | skipped: dry run | 0.0 |" in text
    assert "## kernels failed\n\n```\nreplay 3 differs\n```" in text
    assert "## Kernels\n\n| table |\n" in text
    assert text.endswith("## Decode\n\nNothing was measured.\n")
    report = json.loads((tmp_path / "gpu_check.json").read_text())
    assert report["kernels"] == {"roofline": [1]}
    assert report["steps"][0]["detail"] == "replay 3 differs"
