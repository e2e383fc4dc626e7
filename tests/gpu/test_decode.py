"""The decode bench and the AOTInductor check where there is no GPU: over the kernels' CPU shim."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu.decode_table import decode_table
from tests.plugins import native

HERE = Path(__file__).parent


def shim_library() -> Path:
    return native.build("river_shim_torch") / "tests/torch/libriver_shim_torch.so"


def test_bench_runs_every_arm_and_agrees_with_plain_torch(tmp_path):
    command = [sys.executable, HERE / "decode_bench.py", shim_library(), "cpu", "--out", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "decode.json").read_text())
    assert report["problems"] == report["left_out"] == []
    layers = {record["arm"]: record["backbone_layers"] for record in report["records"]}
    assert layers["River, depth 1"] == 1 and layers["full depth, our kernels"] == 3
    assert layers["River, all W4"] == 0 and layers["bf16, eager torch"] is None
    sizes = {record["arm"]: record["num_bytes"] for record in report["records"]}
    assert sizes["River, all W4"] < sizes["River, depth 1"] < sizes["full depth, our kernels"]
    assert (tmp_path / "decode.md").read_text() == decode_table(report)


def test_a_package_over_the_operators_follows_the_flags(tmp_path):
    command = [sys.executable, HERE / "check_aoti.py", "operators", shim_library(), "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 problems on cpu" in done.stdout


def record(arm: str, ms: float, **changes: object) -> dict[str, object]:
    values = {"model": "m", "num_layers": 16, "full_layers": 16, "batch": 2, "arm": arm}
    return values | {"backbone_layers": 4.0, "ms": ms, "num_bytes": 4e9} | changes


def test_table_shows_ratios_and_shares():
    report = {
        "device": "card",
        "torch": "2",
        "context": 512,
        "copy_gb_per_s": 2000.0,
        "records": [
            record("full depth, our kernels", 8.0, num_bytes=8e9),
            record("River, depth 4", 4.0, full_layers=80),
            record("River, depth 4", 4.0, model="other", backbone_layers=None),
        ],
        "problems": ["it broke"],
        "left_out": [],
    }
    lines = decode_table(report).splitlines()
    part = "| m, 16 of 80 layers | 2 | River, depth 4 | 4.0 | 4.000 | 500.0 | 2.00 | 4.00 | 50 |"
    assert part in lines
    assert "| other | 2 | River, depth 4 | - | 4.000 | 500.0 | nan | 4.00 | 50 |" in lines
    assert lines[-1] == "- problems: it broke"


@pytest.mark.skipif(sys.platform != "linux", reason="the plugin is for Linux")
def test_the_fallback_recorder_is_the_runtimes_own():
    """decode_bench loads graphs.py by its path: it must go on needing torch alone."""
    code = (
        f"import sys\nsys.path.insert(0, {str(HERE.parents[1])!r})\n"
        "for name in ('river_trt', 'numpy'): sys.modules[name] = None\n"
        "from tests.gpu.decode_bench import load_record\nprint(load_record().__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "record\n", done.stderr
