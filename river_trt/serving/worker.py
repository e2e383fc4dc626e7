"""The thread that steps a scheduler while there is work."""

import logging
import threading
from collections.abc import Callable

from river_trt.faults import describe, log_fault
from river_trt.serving.request import Delivery, Request
from river_trt.serving.scheduler import Scheduler, Ticket


class Worker:
    """Hands what each step delivers to `receive`, on its own thread. Never blocks in `receive`.

    failure: why the thread died, None while it lives and after `close`.
    """

    def __init__(self, scheduler: Scheduler, receive: Callable[[list[Delivery]], None]) -> None:
        self.scheduler = scheduler
        self.failure: str | None = None
        self._receive = receive
        self._wake = threading.Event()
        self._stop = False
        self._thread = threading.Thread(target=self._run, name="river-trt-serving", daemon=True)
        self._thread.start()

    def enqueue(self, request: Request, ticket: Ticket) -> None:
        self.scheduler.enqueue(request, ticket)
        self._wake.set()

    def cancel(self, request: Request) -> None:
        self.scheduler.cancel(request)
        self._wake.set()

    def close(self) -> None:
        """After the step that is running, end all requests."""
        self._stop = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        reason = "the server is closed"
        try:
            while not self._stop:
                if not self.scheduler.has_work:
                    self._wake.wait()
                    self._wake.clear()
                    continue
                self._receive(self.scheduler.step())
        except BaseException as error:  # a step ends its own rows' errors: this one is a bug
            self.failure = reason = f"the server's worker died: {describe(error)}"
            log_fault(logging.CRITICAL, reason, error)
        finally:  # whatever happens, nobody waits for ever
            self._receive(self.scheduler.close(reason))
