"""The process that renders chat templates: started for the first conversation, and kept."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

from river_trt.errors import RiverError

LONGEST_TEMPLATE = 256 * 2**10  # characters
LONGEST_CONVERSATION = 8 * 2**20  # characters, as JSON
LONGEST_REPLY = 64 * 2**20  # bytes, as JSON: a character may take six
WALL_SECONDS = 60.0  # for a machine that does not run the process at all; its own limit is on CPU
TEXT = Path(__file__).parent
# The parent's packages by their very paths, and ours without what its __init__ files import, so
# that it starts in a fraction of a second.
START = """
import sys, types
package, text, *sys.path = sys.argv[1:]
for name, path in (("river_trt", package), ("river_trt.text", text)):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [path]
from river_trt.text.render_process import main
main()
"""


class Renderer:
    """One process, started for the first request and again after it was ended; from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def render(self, source: str, values: dict[str, Any] | None) -> str:
        """The text that a template makes of JSON values; None: it is compiled only.

        Raises RiverError when the template is none, refuses the values, or takes too long, too
        much memory, or makes too long a text.
        """
        if len(source) > LONGEST_TEMPLATE:
            raise RiverError(
                f"a chat template may have {LONGEST_TEMPLATE} characters, got {len(source)}"
            )
        try:
            request = json.dumps({"source": source, "values": values})
        except ValueError as error:  # a number of thousands of digits
            raise RiverError(f"the messages cannot be written as JSON: {error}") from error
        if len(request) > LONGEST_CONVERSATION:
            raise RiverError(
                f"a conversation may have {LONGEST_CONVERSATION} characters, got {len(request)}"
            )
        reply = self._ask(request)
        if "invalid" in reply:
            raise RiverError(f"the chat template is no valid one ({reply['invalid']})")
        if "refused" in reply:
            raise RiverError(f"the chat template refuses these messages: {reply['refused']}")
        return reply["text"]

    def _ask(self, request: str) -> dict[str, str]:
        ending = ""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._process = _start()
                weakref.finalize(self, _end, self._process)
            line = b""
            try:
                line = _exchange(self._process, request)
            finally:  # interrupted too: the next request must not find this one's reply
                if not line.endswith(b"\n"):
                    process, self._process = self._process, None
                    ending = _end(process)
        if not line.endswith(b"\n"):
            raise RiverError(f"the chat template was stopped: {ending}")
        reply: dict[str, str] = json.loads(line)
        return reply


def _start() -> subprocess.Popen[bytes]:
    python = Path(sys.executable or "")
    if "python" not in python.name:  # an embedded interpreter, as Triton's
        python = Path(sys.prefix) / "bin" / "python3"
    paths = [str(TEXT.parent), str(TEXT), *filter(None, sys.path)]
    return subprocess.Popen(  # noqa: S603
        [str(python), "-I", "-S", "-B", "-c", START, *paths],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # a terminal's ^C is for us
        env={name: os.environ[name] for name in ("TZ", "LD_LIBRARY_PATH") if name in os.environ},
    )


def _exchange(process: subprocess.Popen[bytes], request: str) -> bytes:
    """The reply, without its line's end if it did not come whole."""
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(request.encode() + b"\n")
        process.stdin.flush()
    reply = bytearray()
    deadline, fd = time.monotonic() + WALL_SECONDS, process.stdout.fileno()
    while not reply.endswith(b"\n") and len(reply) <= LONGEST_REPLY:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([fd], [], [], left)[0]:
            break
        piece = os.read(fd, 1 << 16)
        if not piece:
            break
        reply += piece
    return bytes(reply)


def _end(process: subprocess.Popen[bytes]) -> str:
    """Kill it, if it still lives; why it ended."""
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(OSError):
        process.stdin.close()  # which ends one that waits for requests
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(0.5)
    alive = process.poll() is None
    process.kill()
    code = process.wait()
    process.stdout.close()
    if code == -signal.SIGVTALRM:
        return "it takes too long"
    return "it does not answer" if alive else f"its process ended with code {code}"
