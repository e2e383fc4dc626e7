"""Engines damaged on purpose, through the command line: exit code 0 or 2, never another."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders.tiny_engines import build_pair
from tests.fuzz.budget import FACTOR, SEED, report

PROGRAM = Path(__file__).with_name("run_engines.py")


@pytest.mark.parametrize("kernels", ["native", "onnxruntime"])
def test_damaged_engines(tmp_path, kernels):
    pair = build_pair(tmp_path, kernels=kernels, with_tokenizer=True, num_hidden_layers=3)
    count, engine = 80 * FACTOR, pair.directory
    argv = [sys.executable, PROGRAM, engine, 10**6 * SEED, count]
    root = PROGRAM.parents[2]
    done = subprocess.run(
        [str(part) for part in argv],
        capture_output=True,
        text=True,
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        pytest.fail(f"{name} in the case {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    report(f"engines with {kernels} kernels", count, f"exit codes {found['codes']}")
    assert found["faults"] == []
    assert set(found["codes"]) == {"0", "2"}
