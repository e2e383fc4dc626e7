"""The asyncio face of a scheduler."""

import asyncio
from collections.abc import AsyncGenerator
from types import TracebackType

from river_trt.config import GenerationConfig
from river_trt.errors import RiverError
from river_trt.results import GenerationResult, TokenEvent
from river_trt.serving.metrics import ServingMetrics
from river_trt.serving.request import Delivery, Request
from river_trt.serving.scheduler import Scheduler
from river_trt.serving.worker import Worker

Item = TokenEvent | RiverError


class Server:
    """Many requests over one engine, from `Engine.serve`; used inside `async with`."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._items: dict[Request, asyncio.Queue[Item]] = {}
        self._worker: Worker | None = None

    async def __aenter__(self) -> "Server":
        self._loop = asyncio.get_running_loop()
        self._worker = Worker(self._scheduler, self._receive)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._worker is not None
        await asyncio.to_thread(self._worker.close)

    async def stream(
        self, prompt: object, config: GenerationConfig | None = None
    ) -> AsyncGenerator[TokenEvent, None]:
        """Each token as it comes; the last one holds the GenerationResult.

        prompt: one string or one sequence of token ids. Leaving the loop early cancels the
        request, at the latest when the generator is closed. Raises RiverError for bad input,
        RejectedError when the server is full, ServerClosedError when it closes meanwhile.
        """
        if self._worker is None:
            raise RiverError("the server is not open; use `async with engine.serve() as server`")
        request = self._worker.submit(prompt, config)
        # No await since submit: the worker's first delivery finds the queue.
        items = self._items[request] = asyncio.Queue()
        done = False
        try:
            while not done:
                item = await items.get()
                if isinstance(item, RiverError):
                    done = True
                    raise item
                done = item.result is not None
                yield item
        finally:
            del self._items[request]
            if not done:
                self._worker.cancel(request)

    async def generate(
        self, prompt: object, config: GenerationConfig | None = None
    ) -> GenerationResult:
        """The whole of `stream`, when it is done; cancelling the task cancels the request."""
        async for event in self.stream(prompt, config):
            if event.result is not None:
                return event.result
        raise AssertionError("a stream ends with a result or an error")

    @property
    def metrics(self) -> ServingMetrics:
        return self._scheduler.metrics()

    def _receive(self, deliveries: list[Delivery]) -> None:
        """On the worker's thread."""
        if deliveries:
            self._loop.call_soon_threadsafe(self._distribute, deliveries)

    def _distribute(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            items = self._items.get(delivery.request)
            if items is not None:  # else its reader has just left
                items.put_nowait(delivery.item)
