"""Models whose process was killed: tritonserver 2.51 goes on calling them ready, for ever.

A model of the Python backend is a process of its own, a child of the server. Where it is gone, the
model is unloaded, which turns it unready, and loaded again, which starts another process.
"""

import contextlib
import urllib.error
from collections import Counter
from pathlib import Path

from river_trt.errors import RiverError
from river_trt.triton.local_server import LocalServer

MOST_STARTS = 3  # of one model, beyond the first: what dies again and again stays unready


class Watch:
    """Looks after the models of one server; from one thread."""

    def __init__(self, server: LocalServer) -> None:
        self._server = server
        self._seen: set[str] = set()  # names of models that had a process
        self._starts: Counter[str] = Counter()

    def look(self) -> list[str]:
        """A sentence for every model whose process has gone since the last look."""
        alive = _models_with_process(self._server.pid)
        self._seen |= alive
        said = []
        with contextlib.suppress(OSError):  # a server that does not answer, or that is ending
            ready = {e["name"] for e in self._server.index() if e.get("state") == "READY"}
            for name in sorted((self._seen & ready) - _models_with_process(self._server.pid)):
                said.append(self._revive(name))
        return said

    def _revive(self, name: str) -> str:
        self._server.manage(name, "unload")
        if self._starts[name] >= MOST_STARTS:
            return (
                f"{name}: its process ended again, after {MOST_STARTS} new starts; it is unloaded"
            )
        self._starts[name] += 1
        try:  # the old one stays UNLOADING: the server waits for what was killed
            self._server.manage(name, "load")
        except urllib.error.HTTPError as error:
            raise RiverError(f"{name}: its process ended, and it does not load again") from error
        return f"{name}: its process ended; it is loaded again"


def _models_with_process(server: int) -> set[str]:
    """Names from the stubs' command lines, `.../NAME/1/model.py`."""
    names = set()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):  # gone meanwhile
            continue
        if parent == server and len(words) > 1 and words[1].endswith(b"/model.py"):
            names.add(Path(words[1].decode()).parts[-3])
    return names
