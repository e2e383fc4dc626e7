"""Chat templates: the text that a model's own Jinja template makes of a conversation.

A template is a program that comes with the model, and its input comes with a request. So it runs
sandboxed (render_process.py) in a process with bounded time and memory, which is started for the
first conversation and kept.
"""

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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from river_trt.errors import RiverError

CHAT_TEMPLATE_FILE = "chat_template.jinja"
LONGEST_TEMPLATE = 256 * 2**10  # characters
LONGEST_CONVERSATION = 8 * 2**20  # characters, as JSON
LONGEST_REPLY = 64 * 2**20  # bytes, as JSON: a character may take six
WALL_SECONDS = 60.0  # for a machine that does not run the process at all; its own limit is on CPU
PROGRAM = Path(__file__).with_name("render_process.py")
# The environment's packages by their very paths, whatever the interpreter would add.
START = (
    "import runpy, sys; sys.path[:] = sys.argv[2:]; runpy.run_path(sys.argv[1], None, '__main__')"
)


class ChatTemplate:
    """A template's source; compiled when it is first rendered: who sends no chat needs none.

    variables: what the template sees beside the conversation, such as the special tokens.
    """

    def __init__(self, source: str, variables: Mapping[str, Any] | None = None) -> None:
        self.source = source
        self._variables = dict(variables or {})
        self._process = RenderProcess()

    def render(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True
    ) -> str:
        """The conversation's text.

        Raises RiverError when the template is none, refuses the messages, or takes too long, too
        much memory, or makes too long a text.
        """
        if len(self.source) > LONGEST_TEMPLATE:
            raise RiverError(
                f"{CHAT_TEMPLATE_FILE} may have {LONGEST_TEMPLATE} characters, "
                f"got {len(self.source)}"
            )
        values = self._variables | {
            "messages": list(messages),
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            request = json.dumps({"source": self.source, "values": values})
        except (TypeError, ValueError, RecursionError) as error:
            raise RiverError(f"the messages of a chat must be plain data: {error}") from error
        if len(request) > LONGEST_CONVERSATION:
            raise RiverError(
                f"a conversation may have {LONGEST_CONVERSATION} characters, got {len(request)}"
            )
        reply = self._process.ask(request)
        if "text" in reply:
            return reply["text"]
        if "invalid" in reply:
            raise RiverError(f"{CHAT_TEMPLATE_FILE} is no valid template ({reply['invalid']})")
        raise RiverError(f"the chat template refuses these messages: {reply['refused']}")


class RenderProcess:
    """One process, started for the first request and again after it was ended; from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, request: str) -> dict[str, str]:
        """The reply to a line of JSON; RiverError when the process does not live to give it."""
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
    return subprocess.Popen(  # noqa: S603
        [str(python), "-I", "-S", "-B", "-c", START, str(PROGRAM), *filter(None, sys.path)],
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
