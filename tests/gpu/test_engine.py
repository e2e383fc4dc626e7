"""An engine for the GPU end to end where there is none: the CLI, over the kernels' CPU shim."""

import json
import subprocess
import sys
from pathlib import Path

from tests.plugins import native

SCRIPT = Path(__file__).with_name("engine.py")


def test_an_engine_is_built_and_run_by_the_cli_as_on_a_gpu(tmp_path):
    library = native.build("river_shim_torch") / "tests/torch/libriver_shim_torch.so"
    command = [sys.executable, SCRIPT, "--out", tmp_path, "--library", library]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "engine.json").read_text())
    assert report["problems"] == []
    assert {"tau inf", "tau 0.97", "tau -inf", "lossless"} <= report["modes"].keys()
    assert report["build"]["manifest"]["backend"]["name"] == "torch"
    assert report["modes"]["three rows together"] == "3 of 3 texts as alone"
