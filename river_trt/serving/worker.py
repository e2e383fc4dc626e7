"""The thread that steps a scheduler while there is work."""

import threading
from collections.abc import Callable

from river_trt.config import GenerationConfig
from river_trt.serving.request import Delivery, Request
from river_trt.serving.scheduler import Scheduler


class Worker:
    """Hands what each step delivers to `receive`, on its own thread. Never blocks in `receive`."""

    def __init__(self, scheduler: Scheduler, receive: Callable[[list[Delivery]], None]) -> None:
        self.scheduler = scheduler
        self._receive = receive
        self._wake = threading.Event()
        self._stop = False
        self._thread = threading.Thread(target=self._run, name="river-trt-serving", daemon=True)
        self._thread.start()

    def submit(self, prompt: object, config: GenerationConfig | None = None) -> Request:
        request = self.scheduler.submit(prompt, config)
        self._wake.set()
        return request

    def cancel(self, request: Request) -> None:
        self.scheduler.cancel(request)
        self._wake.set()

    def close(self) -> None:
        """After the step that is running, end all requests."""
        self._stop = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stop:
                if not self.scheduler.has_work:
                    self._wake.wait()
                    self._wake.clear()
                    continue
                self._receive(self.scheduler.step())
        finally:  # whatever happens, nobody waits for ever
            self._receive(self.scheduler.close())
