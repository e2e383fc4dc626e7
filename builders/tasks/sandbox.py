"""Running code that a model wrote: a restricted Python subprocess.

    unshare (user, network, pid, ipc) where the system allows it
      python -I -S in an empty temporary directory, rlimits set, no environment

This keeps accidents and crude mischief in: endless loops, all of the memory, full disks, forks,
calls to the network. It is no wall against an attacker: the process may read what its user may
read. Run a model that you do not trust inside a container or a virtual machine.
"""

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

WALL_SECONDS = 10.0
# The program's last line, which prints a word that it cannot know: to call exit(0) is no pass.
RUNNER = """\
import resource, sys
for name, value in {limits!r}:
    resource.setrlimit(getattr(resource, name), (value, value))
word = sys.stdin.readline()
with open("program.py", encoding="utf-8") as file:
    source = file.read()
namespace = {{"__name__": "__main__"}}
exec(compile(source, "program.py", "exec"), namespace)
sys.__stdout__.write("\\n" + word)
"""
LIMITS = (
    ("RLIMIT_CPU", 8),  # seconds
    ("RLIMIT_AS", 1 << 30),
    ("RLIMIT_FSIZE", 1 << 20),  # of a file
    ("RLIMIT_NOFILE", 32),
    ("RLIMIT_NPROC", 1),  # no forks, no threads (root is not bound by this one)
    ("RLIMIT_CORE", 0),
)
UNSHARE = (
    "unshare",
    "--user",
    "--map-current-user",
    "--net",
    "--pid",
    "--ipc",
    "--fork",
    "--kill-child",
)


@dataclass(frozen=True, slots=True)
class ProgramOutcome:
    passed: bool
    error: str  # the last line of stderr, or why it was stopped


def run_restricted(source: str, wall_seconds: float = WALL_SECONDS) -> ProgramOutcome:
    """Run a program; it passes if it comes to its end without an exception."""
    word = os.urandom(16).hex()
    with tempfile.TemporaryDirectory(prefix="river-trt-code-") as work:
        Path(work, "program.py").write_text(source, encoding="utf-8", errors="replace")
        runner = RUNNER.format(limits=LIMITS)
        process = subprocess.Popen(  # noqa: S603 (to run it is what was asked for)
            [*_isolation(), sys.executable, "-I", "-S", "-B", "-c", runner],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=work,
            env={"PATH": "/usr/bin:/bin", "HOME": work, "LC_ALL": "C.UTF-8"},
            start_new_session=True,
        )
        try:
            out, err = process.communicate(f"{word}\n".encode(), timeout=wall_seconds)
        except subprocess.TimeoutExpired:
            return ProgramOutcome(False, f"stopped after {wall_seconds:g} s")
        finally:
            _kill_group(process)
    lines = err.decode(errors="replace").strip().splitlines()
    passed = process.returncode == 0 and out.decode(errors="replace").strip().endswith(word)
    return ProgramOutcome(passed, "" if passed else (lines[-1] if lines else "ended early"))


@functools.cache
def _isolation() -> tuple[str, ...]:
    """The unshare command, where this system lets this user make namespaces."""
    if shutil.which(UNSHARE[0]) is None:
        return ()
    tried = subprocess.run([*UNSHARE, sys.executable, "-I", "-c", ""], capture_output=True)  # noqa: S603
    return UNSHARE if tried.returncode == 0 else ()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """End it and whatever it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.communicate()
