"""One run: two processes, two pipes between them, and a result that only the judge can write."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from builders.tasks.sandbox.isolation import find_isolation, require_isolation

WALL_SECONDS = 10.0
LONGEST_RESULT = 4096  # bytes
HERE = Path(__file__).parent
TEXTS = ("jail", "wire", "roles")
# Behind the texts of jail.py, wire.py and roles.py. What a program prints goes nowhere.
MAIN = """
role, root, *fds = sys.argv[1:]
task = json.load(sys.stdin)
null = os.open(os.devnull, os.O_RDWR)
lock_up(root) if root else set_limits()
if role != "trial":
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    incoming, outgoing = open(int(fds[0]), "rb"), open(int(fds[1]), "wb")
if role == "candidate":
    candidate(task["source"], task["entry_point"], incoming, outgoing)
if role == "judge":
    wrong = judge(task["test"], task["entry_point"], outgoing, incoming)
    os.write(int(fds[2]), json.dumps({"wrong": wrong}).encode())
"""


@dataclass(frozen=True, slots=True)
class Program:
    """source defines entry_point; test defines check(candidate), and whatever else it calls."""

    source: str
    entry_point: str
    test: str


@dataclass(frozen=True, slots=True)
class ProgramOutcome:
    passed: bool
    error: str  # what the judge found, or why the run was stopped


def judge(
    program: Program, wall_seconds: float = WALL_SECONDS, *, unsafe: bool = False
) -> ProgramOutcome:
    """Whether the function passes its tests.

    unsafe: run it without isolation where this system has none. Raises RiverError there otherwise.
    """
    if not unsafe:
        require_isolation()
    deadline = time.monotonic() + wall_seconds
    with contextlib.ExitStack() as stack:
        pipes = [stack.enter_context(_pipe()) for _ in range(3)]
        (call_in, call_out), (answer_in, answer_out), (result_in, result_out) = pipes
        root = stack.enter_context(tempfile.TemporaryDirectory(prefix="river-trt-jail-"))
        task = {"entry_point": program.entry_point}
        for role, text, ends in (
            ("candidate", {"source": program.source}, (call_in, answer_out)),
            ("judge", {"test": program.test}, (answer_in, call_out, result_out)),
        ):
            stack.enter_context(_process(role, root, task | text, ends))
        for end in (call_in, call_out, answer_in, answer_out, result_out):
            end.close()  # ours, so that the end of a process is the end of its pipe
        answer = _read_until(result_in.fileno(), deadline)
    if answer is None:
        return ProgramOutcome(False, f"stopped after {wall_seconds:g} s")
    try:
        wrong = json.loads(answer)["wrong"]
    except ValueError:
        return ProgramOutcome(False, "the tests ended early")
    return ProgramOutcome(not wrong, wrong)


def python_command(role: str, root: str, *fds: int) -> list[str]:
    """root: an empty directory for the jail's root, empty for no jail."""
    texts = [(HERE / f"{name}.py").read_text(encoding="utf-8") for name in TEXTS]
    text = "\n".join([*texts, MAIN])
    return [sys.executable, "-I", "-S", "-B", "-c", text, role, root, *map(str, fds)]


@contextmanager
def _pipe() -> Iterator[tuple[BinaryIO, BinaryIO]]:
    incoming, outgoing = os.pipe()
    with open(incoming, "rb", 0) as reader, open(outgoing, "wb", 0) as writer:
        yield reader, writer


@contextmanager
def _process(
    role: str, root: str, task: dict[str, str], ends: tuple[BinaryIO, ...]
) -> Iterator[None]:
    """A process of a group of its own, which is gone afterwards, with all that it started."""
    command = find_isolation().command
    fds = [end.fileno() for end in ends]
    with tempfile.TemporaryFile() as file:
        file.write(json.dumps(task).encode())
        file.seek(0)
        process = subprocess.Popen(  # noqa: S603 (to run it is what was asked for)
            [*command, *python_command(role, root if command else "", *fds)],
            stdin=file,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=root,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
            pass_fds=fds,
            start_new_session=True,
        )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _read_until(fd: int, deadline: float) -> bytes | None:
    """All that comes, up to LONGEST_RESULT; None when the deadline comes first."""
    found = b""
    while len(found) < LONGEST_RESULT:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([fd], [], [], left)[0]:
            return None
        piece = os.read(fd, LONGEST_RESULT)
        if not piece:
            break
        found += piece
    return found
