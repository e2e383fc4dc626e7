"""A lock that refuses the second caller in place of letting it wait."""

import threading

from river_trt.errors import RiverError


class OneCaller:
    """The cache serves one caller: a second one fails at once instead of mixing texts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def acquire(self) -> None:
        """RiverError while another caller has it."""
        if not self._lock.acquire(blocking=False):
            raise RiverError(
                "the engine is busy with another generation; finish or close that stream first"
            )

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()
