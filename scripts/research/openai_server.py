"""A `river-trt serve` process of one engine, gone when its block ends."""

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from river_trt.errors import RiverError

READY_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Address:
    """Where it listens, and the process."""

    url: str
    port: int
    pid: int


@contextmanager
def openai_server(engine: Path, options: Sequence[str] = ()) -> Iterator[Address]:
    """options: of the command line."""
    command = [sys.executable, "-m", "river_trt", "serve", str(engine), "--port", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        found = None
        while found is None:
            line = process.stderr.readline()
            if not line:
                raise RiverError("the server did not start; run `river-trt serve` to see why")
            found = re.search(r"(http://\S+:(\d+))/v1", line)
        # Its log must not fill the pipe.
        threading.Thread(target=process.stderr.read, daemon=True).start()
        _wait_until_ready(found[1])
        yield Address(found[1], int(found[2]), process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _wait_until_ready(url: str) -> None:
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end:
        try:
            if httpx.get(f"{url}/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise RiverError(f"the server was not ready after {READY_SECONDS} s")
