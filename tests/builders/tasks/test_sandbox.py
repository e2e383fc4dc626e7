"""What programs try against the sandbox. Nothing here runs without isolation.

Where a system gives no namespaces the attacks are skipped, and the refusal is tested instead.
"""

import os
import re
import time
from pathlib import Path

import pytest

from builders.tasks.sandbox import Program, ProgramOutcome, judge, require_isolation
from builders.tasks.sandbox import run as run_module
from builders.tasks.sandbox.isolation import NAMESPACES, Isolation, find_isolation
from builders.tasks.sandbox.wire import decode, encode
from river_trt.errors import RiverError

isolated = pytest.mark.skipif(
    not find_isolation().command, reason=f"no namespaces here: {find_isolation().problem}"
)
CHECK = "def check(candidate):\n    assert candidate(2, 3) == 5\n    assert candidate(4, 5) == 9\n"
GOOD = "def add(a, b):\n    return a + b\n"


def run(source: str, test: str = CHECK, seconds: float = 10.0) -> ProgramOutcome:
    return judge(Program(source, "add", test), seconds)


def inside(statement: str) -> ProgramOutcome:
    """A function that is right, if the statement raises nothing."""
    return run(
        f"import ctypes, os, socket, sys\ndef add(a, b):\n    {statement}\n    return a + b\n"
    )


@isolated
def test_a_function_that_is_right_passes():
    assert run(GOOD) == ProgramOutcome(True, "")
    assert run("print('noise' * 100000)\n" + GOOD).passed
    assert inside("sys.stdout.write('noise')").passed


@isolated
@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("def add(a, b):\n    return a", "AssertionError"),
        ("def add(a, b):\n    return a // 0", "ZeroDivisionError: integer division or modulo"),
        ("def sub(a, b):\n    return a", "KeyError"),
        ("raise ValueError('at once')", "ValueError: at once"),
        ("def add(a, b):\n    return object()", "TypeError: object is no plain value"),
    ],
)
def test_a_function_that_is_wrong_does_not_and_says_why(source, error):
    outcome = run(source)
    assert not outcome.passed and outcome.error.startswith(error)


FORGERIES = {
    "end well at once": "import os\nos._exit(0)",
    "end well when asked": "import os\ndef add(a, b):\n    os._exit(0)",
    "SystemExit": "raise SystemExit(0)",
    "a word in the caller's frame": (
        "import sys\nword = sys._getframe(1).f_globals['word']\nprint(word)\nimport os; os._exit(0)"
    ),
    "everything equal": (
        "class Same:\n    def __eq__(self, other):\n        return True\n"
        "def add(a, b):\n    return Same()"
    ),
    "an int that equals": (
        "class Same(int):\n    def __eq__(self, other):\n        return True\n"
        "def add(a, b):\n    return Same(0)"
    ),
    "a verdict on every descriptor": (
        "import os\nfor fd in range(3, 99):\n    try:\n"
        '        os.write(fd, b\'{"wrong": ""}\\n\')\n'
        "    except OSError:\n        pass\nos._exit(0)"
    ),
    "no assert any more": (
        "import builtins\nbuiltins.AssertionError = type(None)\n"
        "sys = __import__('sys')\nsys.excepthook = lambda *a: None\ndef add(a, b):\n    return 0"
    ),
    "the judge's frames": (
        "import sys\nframe = sys._getframe()\nwhile frame:\n"
        "    frame.f_globals['judge'] = lambda *a: ''\n    frame = frame.f_back\n"
        "def add(a, b):\n    return 0"
    ),
    "a line without an end": "import os\nfor fd in range(3, 9):\n"
    "    try:\n        os.write(fd, b'[' * 60000)\n    except OSError:\n        pass",
    "no message": "import os\nfor fd in range(3, 9):\n"
    '    try:\n        os.write(fd, b\'{"value": {"bytes": 99999999999}}\\n\')\n'
    "    except OSError:\n        pass",
}


@isolated
@pytest.mark.parametrize("name", FORGERIES)
def test_a_pass_cannot_be_forged(name):
    assert not run(FORGERIES[name], seconds=5.0).passed


@isolated
@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("open('/etc/shadow').read()", "FileNotFoundError"),
        ("open('/etc/passwd').read()", "FileNotFoundError"),
        ("open('/proc/self/environ').read()", "FileNotFoundError"),
        ("open('/root/mark', 'w')", "OSError|FileNotFoundError|PermissionError"),
        ("open('/usr/lib/mark', 'w')", "OSError|PermissionError"),
        ("os.mkdir('/mark')", "OSError|PermissionError"),
        ("os.unlink(os.__file__)", "OSError|PermissionError"),
        ("os.fork()", "PermissionError"),
        ("os.system('true') == 0 or 1 / 0", "ZeroDivisionError"),
        ("__import__('threading').Thread(target=print).start()", "RuntimeError"),
        ("os.execv(sys.executable, ['python'])", "PermissionError|FileNotFoundError"),
        ("socket.socket()", "PermissionError"),
        ("socket.create_connection(('192.0.2.1', 9), 1)", "PermissionError"),
        ("os.setsid()", "PermissionError"),
        ("ctypes.CDLL(None).unshare(0x10000000) and 1 / 0", "ZeroDivisionError"),
        (
            "ctypes.CDLL(None).mount(b'none', b'/tmp', b'tmpfs', 0, 0) and 1 / 0",
            "ZeroDivisionError",
        ),
        ("ctypes.CDLL(None).shmget(0, 1 << 30, 0o1600) < 0 and 1 / 0", "ZeroDivisionError"),
        ("ctypes.CDLL(None).memfd_create(b'a', 0) < 0 and 1 / 0", "ZeroDivisionError"),
        ("ctypes.CDLL(None).ptrace(16, 1, 0, 0) < 0 and 1 / 0", "ZeroDivisionError"),
        ("ctypes.CDLL(None).setuid(0) < 0 and 1 / 0", "ZeroDivisionError"),
        ("os.kill(2, 9)", "ProcessLookupError"),
        ("bytearray(3 << 30)", "MemoryError"),
        ("open('big', 'wb').write(bytes(5 << 20))", "OSError"),
        ("[open(str(i), 'wb').write(bytes(1 << 19)) for i in range(20)]", "OSError: .* No space"),
        ("[open(str(i), 'w').close() for i in range(500)]", "OSError: .* No space"),
        ("keep = [open('a', 'w') for _ in range(100)]", "OSError: .* Too many open files"),
        ("__import__('numpy')", "ModuleNotFoundError"),
        ("__import__('river_trt')", "ModuleNotFoundError"),
        ("os.environ['RIVER_SECRET']", "KeyError"),
        ("os.setresuid(0, 0, 0)", "PermissionError"),
    ],
)
def test_the_machine_is_out_of_reach(statement, error, monkeypatch):
    monkeypatch.setenv("RIVER_SECRET", "x")
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    outcome = inside(statement)
    assert not outcome.passed and re.match(error, outcome.error), outcome


@isolated
def test_endless_loops_and_sleepers_are_stopped():
    for source in ("while True: pass", "import time; time.sleep(1000)"):
        outcome = run(source, seconds=1.0)
        assert outcome == ProgramOutcome(False, "stopped after 1 s")


@isolated
def test_a_flood_of_output_costs_no_more_than_the_limit():
    started = time.monotonic()
    source = "import os\nwhile True:\n    for fd in (1, 2, 3, 4, 5):\n        try:\n"
    source += "            os.write(fd, b'x' * 65536)\n        except OSError:\n            pass\n"
    assert not run(source, seconds=2.0).passed
    assert time.monotonic() - started < 60  # a backstop: it took half a minute beyond its limit


@isolated
def test_nothing_outlives_a_run(tmp_path):
    before = set(os.listdir("/proc"))
    run(
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(99)",
        seconds=1,
    )
    for pid in set(os.listdir("/proc")) - before:
        try:
            text = Path("/proc", pid, "cmdline").read_bytes()
        except OSError:
            continue
        assert b"river-trt-jail-" not in text


@isolated
def test_a_user_namespace_serves_too(monkeypatch):
    """What a user who is no superuser gets."""
    command = find_isolation().command
    user = Isolation((command[0], "--user", "--map-root-user", *NAMESPACES))
    monkeypatch.setattr(run_module, "find_isolation", lambda: user)
    if not run(GOOD).passed:
        pytest.skip("no user namespaces here")
    for statement in ("open('/etc/shadow')", "os.fork()", "os.mkdir('/mark')", "os.setuid(1)"):
        assert re.match("FileNotFound|Permission|OSError", inside(statement).error), statement
    assert not run(FORGERIES["a verdict on every descriptor"]).passed


@isolated
def test_the_tests_may_call_the_function_by_its_name_and_what_stands_above_it():
    test = (
        "def twice(x):\n    return 2 * x\n\ndef check(f):\n    assert twice(f(1, 2)) == add(3, 3)\n"
    )
    assert run(GOOD, test).passed


def test_without_namespaces_a_program_is_refused(monkeypatch):
    none = Isolation((), "operation not permitted")
    monkeypatch.setattr("builders.tasks.sandbox.isolation.find_isolation", lambda: none)
    monkeypatch.setattr(run_module, "find_isolation", lambda: none)
    with pytest.raises(RiverError, match="not permitted.*--unsafe-execution runs them"):
        require_isolation()
    with pytest.raises(RiverError, match="--unsafe-execution"):
        judge(Program(GOOD, "add", CHECK))
    assert judge(Program(GOOD, "add", CHECK), unsafe=True).passed  # a harmless one of our own


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 1, 10**30, 1.5, float("inf"), "é\ud800", b"\x00\xff", 1j, [], (), {}, set()),
        *([1, (2, [3])], {"a": (1,), 2: {3}}, {(1, 2): frozenset({4})}, {"tuple": [1]}),
    ],
)
def test_plain_values_cross_as_they_are(value):
    found = decode(encode(value))
    assert found == value and type(found) is type(value)
