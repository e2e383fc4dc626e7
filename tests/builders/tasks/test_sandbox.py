import os
import time
from pathlib import Path

import pytest

from builders.tasks.sandbox import UNSHARE, _isolation, run_restricted


def test_a_program_that_ends_passes():
    assert run_restricted("x = sum(range(10))\nassert x == 45\nprint('noise')").passed


def test_an_exception_is_named():
    outcome = run_restricted("assert 1 == 2, 'not so'")
    assert not outcome.passed and outcome.error == "AssertionError: not so"


@pytest.mark.parametrize("source", ["raise SystemExit(0)", "import os; os._exit(0)", "exit()"])
def test_to_end_early_is_no_pass(source):
    outcome = run_restricted(source)
    assert not outcome.passed


def test_endless_loops_are_stopped():
    outcome = run_restricted("while True: pass", wall_seconds=1.0)
    assert (outcome.passed, outcome.error) == (False, "stopped after 1 s")


def test_sleepers_are_stopped_with_what_they_started(tmp_path):
    """The program's own children do not outlive it, where it can make any."""
    mark = tmp_path / "mark"
    source = f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(4); open({str(mark)!r}, 'w')"])
time.sleep(60)
"""
    run_restricted(source, wall_seconds=2.0)
    time.sleep(3.5)
    assert not mark.exists()


def test_memory_is_bounded():
    outcome = run_restricted("x = bytearray(3 << 30)")
    assert not outcome.passed and "MemoryError" in outcome.error


def test_files_are_bounded():
    outcome = run_restricted("open('big', 'wb').write(bytes(5 << 20))")
    assert not outcome.passed
    outcome = run_restricted("keep = [open('small', 'w') for _ in range(100)]")
    assert not outcome.passed and "Too many open files" in outcome.error


def test_it_starts_in_an_empty_directory_that_goes_away():
    source = "import os; assert os.listdir() == ['program.py']; raise OSError(os.getcwd())"
    found = run_restricted(source)
    place = found.error.removeprefix("OSError: ")
    assert place.startswith("/") and not Path(place).exists()


def test_the_environment_and_the_project_are_out_of_reach(monkeypatch):
    monkeypatch.setenv("RIVER_SECRET", "x")
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    assert run_restricted("import os; assert 'RIVER_SECRET' not in os.environ").passed
    for name in ("river_trt", "numpy"):
        assert f"No module named '{name}'" in run_restricted(f"import {name}").error


def test_no_network():
    if not _isolation():
        pytest.skip(f"this user may not run {UNSHARE[0]} here, and then the network stays")
    outcome = run_restricted(
        "import socket\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "s.connect(('192.0.2.1', 9))\n"
    )
    assert not outcome.passed and "unreachable" in outcome.error
