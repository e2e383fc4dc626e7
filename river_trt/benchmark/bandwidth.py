"""How fast this machine reads memory: what a decode step cannot beat."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

ARRAY_BYTES = 192_000_000  # of each thread: far more than caches hold
PASSES = 6


def read_bandwidth(threads: int | None = None, array_bytes: int = ARRAY_BYTES) -> float:
    """Bytes/s, the best of some passes; `threads` threads (None: every core) read at once."""
    count = threads or len(os.sched_getaffinity(0))
    arrays = [np.ones(array_bytes // 8, np.int64) for _ in range(count)]
    best = 0.0
    with ThreadPoolExecutor(count) as pool:
        for _ in range(PASSES):
            started = time.perf_counter()
            list(pool.map(np.max, arrays))  # numpy lets other threads run meanwhile
            best = max(best, count * arrays[0].nbytes / (time.perf_counter() - started))
    return best
