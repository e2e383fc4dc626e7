"""How fast this machine multiplies matrices: what a prefill on a float32 backbone cannot beat."""

import os
import subprocess
import sys
import time

import numpy as np

from river_trt.cores import usable_cores

SIZE, PASSES = 1024, 12  # of the square matrices; short ones: the best one counts
# By which the libraries that numpy may be built with are told their threads, before they load.
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")


def product_rate(threads: int | None = None) -> float:
    """Additions and multiplications a second of numpy's float32 products.

    In a process of its own, on `threads` threads (None: one a core).
    """
    count = str(threads or usable_cores())
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", __name__],
        env=os.environ | dict.fromkeys(THREADS, count),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout)


def measure() -> float:
    """The best of some passes, with the threads that numpy has."""
    a, b = np.ones((2, SIZE, SIZE), np.float32)
    out = np.empty_like(a)
    best = float("inf")
    for _ in range(PASSES):
        started = time.perf_counter()
        np.matmul(a, b, out=out)
        best = min(best, time.perf_counter() - started)
    return float(2 * SIZE**3 / best)


if __name__ == "__main__":
    sys.stdout.write(f"{measure()}\n")
