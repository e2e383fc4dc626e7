"""Can the local tritonserver run? A wrong stub hangs the server without a word, so look first."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from river_trt.errors import MissingDependencyError, RiverError
from river_trt.triton.installation import INSTALL, Installation

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108
LEAST_SHARED_MEMORY = 32 * 2**20  # bytes; a model's stub takes 1 MiB and grows


@dataclass(frozen=True, slots=True)
class Check:
    """problem: None if all is well, else what is wrong and how to mend it."""

    name: str
    found: str
    problem: str | None = None


def examine(python: Path | None = None) -> list[Check]:
    """All checks of an environment, ours by default; those after a missing wheel left out."""
    try:
        installation = Installation.find(python)
    except MissingDependencyError as error:
        return [Check("tritonserver", "none", str(error))]
    checks: list[Callable[[Installation], Check]] = [_server, _stub, _python, _numpy, _memory]
    return [check(installation) for check in checks]


def require_healthy(python: Path | None = None) -> Installation:
    """Raises RiverError with the first problem."""
    for problem in problems(examine(python)):
        raise RiverError(f"{problem}; see `river-trt triton doctor`")
    return Installation.find(python)


def problems(checks: list[Check]) -> Iterator[str]:
    """A sentence for each check that failed."""
    for check in checks:
        if check.problem:
            named = check.problem.startswith(check.name)
            yield check.problem if named else f"{check.name}: {check.problem}"


def _server(installation: Installation) -> Check:
    return _program("tritonserver", installation, installation.server)


def _stub(installation: Installation) -> Check:
    if not installation.stub.exists():
        folder = installation.stub.parent.parent
        versions = ", ".join(sorted(path.name for path in folder.glob("3.*"))) or "none"
        problem = f"the wheel has stubs for Python {versions}, not {installation.version}"
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
        fix = f"`apt-get install libpython{installation.version}` has it on Debian"
    return Check(name, str(program), f"the library {missing[0]} is not found; {fix}")


def _python(installation: Installation) -> Check:
    """The stub takes the first python3 on PATH for its modules."""
    first = shutil.which("python3", path=installation.environment()["PATH"])
    found = f"{first}, Python {installation.version}"
    if first is None or Path(first).parent != installation.python.parent:
        folder = installation.python.parent
        return Check("python3", str(first), f"{folder} has no python3, and the stub needs one")
    if installation.problem:
        return Check("python3", found, f"{installation.problem}; install river-trt for it")
    return Check("python3", found)


def _numpy(installation: Installation) -> Check:
    """The wheel's stub reads numpy 1's structures: with numpy 2 it dies at the first request."""
    found = str(installation.numpy)
    if not found.startswith("1."):
        fix = "`pip install 'numpy<2'`, in an environment of its own if others need numpy 2"
        return Check("numpy", found, f"the wheel's stub works with numpy 1 only; {fix}")
    return Check("numpy", found)


def _memory(installation: Installation) -> Check:
    if not SHARED_MEMORY.is_dir():
        return Check("shared memory", "none", f"{SHARED_MEMORY} is missing")
    free = shutil.disk_usage(SHARED_MEMORY).free
    found = f"{SHARED_MEMORY}, {free // 2**20} MiB free"
    if free < LEAST_SHARED_MEMORY:
        need = LEAST_SHARED_MEMORY // 2**20
        return Check("shared memory", found, f"{need} MiB are needed; docker has --shm-size")
    return Check("shared memory", found)
