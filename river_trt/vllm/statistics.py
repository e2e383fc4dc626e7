"""How deep tokens went, from the workers to vLLM's /metrics.

vLLM's hook for statistics runs in the process that serves HTTP, and nothing of a model's own goes
there with a step's output. So two numbers a data-parallel rank lie in a small file that the serving
process makes, and whose path its children inherit.
"""

import atexit
import os
import tempfile
from pathlib import Path

import numpy as np

PATH = "RIVER_TRT_VLLM_STATISTICS"  # of the environment
SLOTS = 64  # data-parallel ranks
TOKENS, LAYERS = 0, 1  # columns: generated tokens, layers that ran the backbone for them
BYTES = SLOTS * 2 * np.dtype(np.int64).itemsize


def create() -> None:
    """Make the file, once a tree of processes; it goes with the process that made it."""
    if PATH in os.environ:
        return
    handle, name = tempfile.mkstemp(prefix="river-trt-vllm-")
    os.truncate(handle, BYTES)
    os.close(handle)
    os.environ[PATH] = name
    atexit.register(_remove, Path(name), os.getpid())


def _remove(path: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked child ends too
        path.unlink(missing_ok=True)


def open_totals() -> np.ndarray | None:
    """int64 [SLOTS, 2], shared by all processes; None where nobody made the file.

    That is a worker on another machine than the server's: its tokens are not counted.
    """
    path = os.environ.get(PATH)
    if path is None or not os.path.isfile(path) or os.path.getsize(path) != BYTES:
        return None
    return np.memmap(path, np.int64, "r+", shape=(SLOTS, 2))
