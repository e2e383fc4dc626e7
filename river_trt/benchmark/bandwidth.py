"""How fast this machine reads memory: what a decode step cannot beat."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from river_trt.cores import usable_cores

ARRAY_BYTES = 128_000_000  # of each thread, far more than caches hold,
ALL_BYTES = 2_000_000_000  # of all of them at most
PASSES = 20  # short ones: another process spoils some, and the best one counts


def read_bandwidth(threads: int | None = None) -> float:
    """Bytes/s, the best of some passes; `threads` threads (None: one a core) read at once."""
    count = threads or usable_cores()
    size = min(ARRAY_BYTES, ALL_BYTES // count)
    arrays = [np.ones(size // 8, np.int64) for _ in range(count)]
    best = 0.0
    with ThreadPoolExecutor(count) as pool:
        for _ in range(PASSES):
            started = time.perf_counter()
            list(pool.map(np.max, arrays))  # numpy lets other threads run meanwhile
            best = max(best, count * arrays[0].nbytes / (time.perf_counter() - started))
    return best
