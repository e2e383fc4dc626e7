"""How a process gets namespaces of its own here, if the system lets this user make them."""

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass

from river_trt.errors import RiverError

NAMESPACES = ("--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child")
TRIAL_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Isolation:
    """command: what runs a process in namespaces; empty where there are none, and then why."""

    command: tuple[str, ...]
    problem: str = ""


@functools.cache
def find_isolation() -> Isolation:
    """The first way that carries a process through the whole of jail.py."""
    from builders.tasks.sandbox.run import python_command

    program = shutil.which("unshare")
    if sys.platform != "linux" or program is None:
        return Isolation((), "the program `unshare` (util-linux) is not there")
    user = ("--user", "--map-root-user")
    problem = ""
    # The superuser needs no user namespace, and without one can become nobody.
    for extra in ((), user) if os.getuid() == 0 else (user,):
        command = (program, *extra, *NAMESPACES)
        with tempfile.TemporaryDirectory(prefix="river-trt-jail-") as root:
            try:
                tried = subprocess.run(  # noqa: S603
                    [*command, *python_command("trial", root)],
                    input=b"{}",
                    capture_output=True,
                    timeout=TRIAL_SECONDS,
                )
            except subprocess.TimeoutExpired:
                problem = "making namespaces hangs"
                continue
        if tried.returncode == 0:
            return Isolation(command)
        problem = (tried.stderr.decode(errors="replace").strip().splitlines() or ["unknown"])[-1]
    return Isolation((), problem)


def require_isolation() -> None:
    """RiverError where a program could only be run unprotected."""
    isolation = find_isolation()
    if not isolation.command:
        raise RiverError(
            "programs that a model writes are not run here, because this system gives them no "
            f"namespaces of their own ({isolation.problem}); --unsafe-execution runs them with "
            "your rights, in a machine that you can throw away"
        )
