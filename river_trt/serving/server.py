"""The asyncio face of a scheduler."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

from river_trt.config import GenerationConfig
from river_trt.errors import RiverError
from river_trt.results import GenerationResult, TokenEvent
from river_trt.serving.metrics import ServingMetrics
from river_trt.serving.request import Delivery, Request
from river_trt.serving.scheduler import Scheduler
from river_trt.serving.worker import Worker
from river_trt.text import Chat

Item = TokenEvent | RiverError
READERS = 2  # threads that tokenise long prompts
SHORT_PROMPT = 4096  # characters or ids; what takes no longer than a change of threads


class Server:
    """Many requests over one engine, from `Engine.serve`; used inside `async with`."""

    def __init__(self, open_scheduler: Callable[[], Scheduler]) -> None:
        """open_scheduler takes the engine, so it is called when the server is entered."""
        self._open_scheduler = open_scheduler
        self._items: dict[Request, asyncio.Queue[Item]] = {}
        self._worker: Worker | None = None

    async def __aenter__(self) -> "Server":
        self._loop = asyncio.get_running_loop()
        self._scheduler = self._open_scheduler()
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="river-trt-reader")
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
        self._readers.shutdown(wait=False, cancel_futures=True)

    @property
    def failure(self) -> str | None:
        """Why the server can answer no more; None while it is well. For a readiness probe."""
        return None if self._worker is None else self._worker.failure

    async def stream(
        self, prompt: object, config: GenerationConfig | None = None
    ) -> AsyncGenerator[TokenEvent, None]:
        """Each token as it comes; the last one holds the GenerationResult.

        prompt: one string or one sequence of token ids; a long one is tokenised beside the event
        loop. Leaving the loop early cancels the request, at the latest when the generator is
        closed. Raises RiverError for bad input, RejectedError when the server is full,
        ServerClosedError when it closes meanwhile, InternalError for a fault of ours.
        """
        if self._worker is None:
            raise RiverError("the server is not open; use `async with engine.serve() as server`")
        request, items = await self._submit(self._worker, prompt, config)
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

    async def _submit(
        self, worker: Worker, prompt: object, config: GenerationConfig | None
    ) -> tuple[Request, "asyncio.Queue[Item]"]:
        ticket = self._scheduler.reserve()
        try:
            if isinstance(prompt, Chat) or (isinstance(prompt, str) and len(prompt) > SHORT_PROMPT):
                prepare = self._scheduler.prepare
                request = await self._loop.run_in_executor(self._readers, prepare, prompt, config)
            else:
                request = self._scheduler.prepare(prompt, config)
        except asyncio.CancelledError:
            self._scheduler.give_back(ticket)
            raise
        except BaseException as error:
            raise self._scheduler.refuse(ticket, error) from error
        # No await from here on: the worker's first delivery finds the queue.
        worker.enqueue(request, ticket)
        items = self._items[request] = asyncio.Queue()
        return request, items

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
        return ServingMetrics() if self._worker is None else self._scheduler.metrics()

    def _receive(self, deliveries: list[Delivery]) -> None:
        """On the worker's thread."""
        if deliveries:
            self._loop.call_soon_threadsafe(self._distribute, deliveries)

    def _distribute(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            items = self._items.get(delivery.request)
            if items is not None:  # else its reader has just left
                items.put_nowait(delivery.item)
