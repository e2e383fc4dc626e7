"""The kernels on a real GPU, skipped where there is none, and the roofline table anywhere."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu.roofline_table import roofline_table

CHECKS = Path(__file__).with_name("kernel_checks.py")


def has_gpu() -> bool:
    try:
        return (
            subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False).returncode == 0
        )
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not has_gpu(), reason="no NVIDIA GPU on this machine")
def test_all_checks_pass_on_the_gpu(tmp_path: Path):
    command = [sys.executable, CHECKS, "--out", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_roofline_table_shows_shares_and_gaps():
    shape = {"model": "m", "linear": "o", "n": 64, "k": 32, "rows": 1}
    records = [
        {"kernel": "copy", "device": "card", "us": 1.0, "gb_per_s": 2000.0},
        {"kernel": "linear", **shape, "flags": "backbone", "us": 10.0, "gb_per_s": 1700.0},
        {"kernel": "linear", **shape, "flags": "river", "us": 3.0, "gb_per_s": 1500.0},
        {"kernel": "cublas", **shape, "us": 11.0, "gb_per_s": 1600.0},
        {"kernel": "gate", "rows": 8, "scope": 2, "us": 2.5},
    ]
    table = roofline_table(records)
    expected = "| m | o | 64 x 32 | 1 | 10.0 (85 %) | 3.0 (75 %) | - | 11.0 (80 %) | - |"
    assert expected in table.splitlines()
    assert "| gate | hidden 4096, 8 rows, scope 2 | 2.5 |" in table.splitlines()
