"""Can the local tritonserver run? A wrong stub hangs the server without a word, so look first."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from river_trt.errors import MissingDependencyError, RiverError
from river_trt.triton.installation import INSTALL, PYTHON_VERSION, Installation

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108
LEAST_SHARED_MEMORY = 32 * 2**20  # bytes; a model's stub takes 1 MiB and grows


@dataclass(frozen=True, slots=True)
class Check:
    """problem: None if all is well, else what is wrong and how to mend it."""

    name: str
    found: str
    problem: str | None = None


def examine() -> list[Check]:
    """All checks, those after a missing wheel left out."""
    try:
        installation = Installation.find()
    except MissingDependencyError as error:
        return [Check("tritonserver", "none", str(error))]
    checks: list[Callable[[Installation], Check]] = [_server, _stub, _python, _shared_memory]
    return [check(installation) for check in checks]


def require_healthy() -> Installation:
    """Raises RiverError with the first problem."""
    for problem in problems(examine()):
        raise RiverError(f"{problem}; see `river-trt triton doctor`")
    return Installation.find()


def problems(checks: list[Check]) -> Iterator[str]:
    return (f"{check.name}: {check.problem}" for check in checks if check.problem)


def _server(installation: Installation) -> Check:
    return _program("tritonserver", installation, installation.server)


def _stub(installation: Installation) -> Check:
    if not installation.stub.exists():
        folder = installation.stub.parent.parent
        versions = ", ".join(sorted(path.name for path in folder.glob("3.*")))
        problem = f"the wheel has stubs for Python {versions or 'none'}, not {PYTHON_VERSION}"
        return Check("stub", "none", f"{problem}; use one of those Pythons")
    return _program("stub", installation, installation.stub)


def _program(name: str, installation: Installation, program: Path) -> Check:
    if not program.exists():
        return Check(name, "none", f"{program} is missing; `{INSTALL} --force-reinstall`")
    missing = installation.missing_libraries(program)
    if not missing:
        return Check(name, str(program))
    fix = "install it with the system's packages"
    if any(library.startswith("libpython") for library in missing):
        fix = f"`apt-get install libpython{PYTHON_VERSION}` has it on Debian"
    return Check(name, str(program), f"the library {missing[0]} is not found; {fix}")


def _python(installation: Installation) -> Check:
    """The stub takes the first python3 on PATH for its modules."""
    environment = installation.environment()
    python = shutil.which("python3", path=environment["PATH"])
    if python is None:
        return Check("python3", "none", "no python3 on PATH, and the stub needs one")
    code = (
        "import sys, river_trt, onnxruntime, tokenizers, numpy;"
        "print('%d.%d' % sys.version_info[:2])"
    )
    run = subprocess.run(
        [python, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    if run.returncode:
        reason = run.stderr.strip().splitlines()[-1:] or ["it does not start"]
        return Check("python3", python, f"it cannot run river-trt: {reason[0]}; install it there")
    version = run.stdout.strip()
    if version != PYTHON_VERSION:
        problem = f"it is Python {version}, and the stub is for {PYTHON_VERSION}"
        return Check("python3", python, f"{problem}; put this Python's folder first on PATH")
    return Check("python3", f"{python}, Python {version}")


def _shared_memory(installation: Installation) -> Check:
    if not SHARED_MEMORY.is_dir():
        return Check("shared memory", "none", f"{SHARED_MEMORY} is missing")
    free = shutil.disk_usage(SHARED_MEMORY).free
    found = f"{SHARED_MEMORY}, {free // 2**20} MiB free"
    if free < LEAST_SHARED_MEMORY:
        need = LEAST_SHARED_MEMORY // 2**20
        return Check("shared memory", found, f"{need} MiB are needed; docker has --shm-size")
    return Check("shared memory", found)
