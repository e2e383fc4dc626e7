"""vLLM's own environment, made by scripts/setup_vllm.sh; without it these tests are skipped."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
PYTHON = ROOT / ".venv-vllm/bin/python"
REASON = ROOT / ".venv-vllm/unavailable"  # why the set-up gave up
DRIVER = Path(__file__).with_name("driver.py")
needs_vllm = pytest.mark.skipif(
    not PYTHON.exists() or REASON.exists(),
    reason="vLLM is not set up: "
    + (REASON.read_text().strip() if REASON.exists() else "run scripts/setup_vllm.sh"),
)


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "VLLM_LOGGING_LEVEL": "ERROR"} | more


def run_driver(folder: Path, cases: list[dict[str, Any]], **more: str) -> dict[str, Any]:
    """Results by the cases' names."""
    (folder / "cases.json").write_text(json.dumps(cases))
    command = [PYTHON, DRIVER, folder / "cases.json", folder / "results.json"]
    done = subprocess.run(
        command, env=environment(**more), capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found
