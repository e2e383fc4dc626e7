"""The doctor over environments that are made up; the real one runs in test_triton_server.py."""

import dataclasses
import sys
from pathlib import Path

import pytest

from river_trt import MissingDependencyError, RiverError
from river_trt.cli.main import main
from river_trt.triton import doctor
from river_trt.triton.installation import Installation


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    """One whose programs are a real one's, so that ldd finds all."""
    root = tmp_path / "tritonserver"
    made = Installation(
        Path(sys.executable).absolute(), "3.11", root, tmp_path / "none", "1.26.4", None
    )
    for program in (made.server, made.stub):
        program.parent.mkdir(parents=True)
        program.symlink_to("/bin/true")
    return made


def find(monkeypatch, installation):
    monkeypatch.setattr(Installation, "find", classmethod(lambda cls, python=None: installation))


def test_healthy_environment(installation, monkeypatch):
    find(monkeypatch, installation)
    assert [check.problem for check in doctor.examine()] == [None] * 5
    assert doctor.require_healthy() is installation


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "3.99"}, "stub: the wheel has stubs for Python 3.11, not 3.99"),
        ({"numpy": "2.4.6"}, "numpy: the wheel's stub works with numpy 1 only; `pip install"),
        ({"problem": "No module named 'x'"}, "python3: No module named 'x'; install river-trt"),
        ({"python": Path("/nowhere/python3")}, "python3: /nowhere has no python3"),
        ({"root": Path("/nowhere")}, "tritonserver: /nowhere/bin/tritonserver is missing"),
    ],
)
def test_problem_is_named_with_its_cure(installation, monkeypatch, change, message):
    find(monkeypatch, dataclasses.replace(installation, **change))
    with pytest.raises(RiverError) as raised:
        doctor.require_healthy()
    assert str(raised.value).startswith(message)


def test_missing_library_is_named(installation, monkeypatch):
    missing = ["libpython3.11.so.1.0"]
    monkeypatch.setattr(Installation, "missing_libraries", lambda self, program: missing)
    find(monkeypatch, installation)
    with pytest.raises(RiverError, match="libpython3.11.so.1.0 is not found; `apt-get install"):
        doctor.require_healthy()


def test_environment_puts_its_python_first(installation, monkeypatch, tmp_path):
    monkeypatch.setenv("LD_LIBRARY_PATH", "/elsewhere")
    environment = installation.environment()
    assert environment["PATH"].split(":")[0] == str(installation.python.parent)
    assert environment["LD_LIBRARY_PATH"] == "/elsewhere"
    (tmp_path / "libpython3.11.so.1.0").touch()
    own = dataclasses.replace(installation, library=tmp_path / "libpython3.11.so.1.0")
    assert own.environment()["LD_LIBRARY_PATH"] == f"{tmp_path}:/elsewhere"


def test_what_is_no_python_and_a_python_without_the_wheel(tmp_path):
    with pytest.raises(RiverError, match="does not run as a Python interpreter"):
        Installation.find(Path("/bin/false"))
    python = tmp_path / "python3"  # isolated: sees no site-packages
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    python.chmod(0o755)
    with pytest.raises(MissingDependencyError, match="pip install --no-deps nvidia-pytriton"):
        Installation.find(python)
    assert [check.name for check in doctor.examine(python)] == ["tritonserver"]


def test_command_reports_the_problem(installation, monkeypatch, capsys):
    find(monkeypatch, dataclasses.replace(installation, numpy="2.4.6"))
    assert main(["triton", "doctor"]) == 2
    captured = capsys.readouterr()
    assert "shared memory" in captured.out
    assert captured.err.startswith("error: numpy: the wheel's stub")
