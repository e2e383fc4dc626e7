"""Between Triton's requests and the scheduler. Only one thread sends, steps and reports metrics.

execute() --> reader: read, tokenise --> queue --> thread: enqueue -- step -- send -- cancellations
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from river_trt.engine import Engine
from river_trt.errors import EngineError, PromptError, RiverError
from river_trt.faults import InternalError, contained, describe, log_fault
from river_trt.serving.errors import RejectedError, ServerClosedError
from river_trt.serving.request import Delivery, Request
from river_trt.serving.scheduler import Ticket
from river_trt.triton.ask import Ask, read_ask
from river_trt.triton.fields import Layout
from river_trt.triton.prometheus import PrometheusMetrics
from river_trt.triton.reply import Reply

CANCEL_INTERVAL = 0.05  # seconds between two looks at whether a client has gone
READERS = 2  # threads that read and tokenise long requests
SHORT_REQUEST = 4096  # bytes of all strings; what takes no longer than a change of threads
LONGEST_MESSAGE = 1000  # characters of an error
UNLOADED = "the model is being unloaded"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that has been read."""

    sender: Any
    ask: Ask
    request: Request
    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that got no ticket, and why."""

    sender: Any
    error: RiverError


@dataclass(slots=True)
class Open:
    """A request that has not got its last response."""

    sender: Any
    reply: Reply
    looked: float  # time.monotonic() of the last look for a cancellation


class Bridge:
    """pb_utils: the module triton_python_backend_utils, which exists only inside the server.

    on_death is called with the reason when the thread has died, after every request is answered.
    No request can bring that about: what one raises ends that one. failure: the reason, or None.
    """

    def __init__(
        self,
        engine: Engine,
        layout: Layout,
        max_queue: int,
        model_name: str,
        pb_utils: Any,
        on_death: Callable[[str], None],
    ) -> None:
        self._layout, self._pb, self._on_death = layout, pb_utils, on_death
        self._scheduler = engine.scheduler(max_queue=max_queue)
        self._metrics = PrometheusMetrics(pb_utils, model_name)
        self._open: dict[Request, Open] = {}
        self._arrived: queue.SimpleQueue[Prepared | Refused | None] = queue.SimpleQueue()
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="river-trt-reader")
        self._ended = False
        self.failure: str | None = None
        self._thread = threading.Thread(target=self._run, name="river-trt", daemon=True)
        self._thread.start()

    def put(self, request: Any) -> None:
        """Called in execute(): a request's inputs are gone once that returns."""
        sender = request.get_response_sender()
        ticket = None
        try:
            ticket = self._scheduler.reserve()
            tensors = {tensor.name(): tensor.as_numpy().copy() for tensor in request.inputs()}
            parameters = request.parameters()
            # A conversation is rendered by another process, which may not have started.
            if _string_bytes(tensors, parameters) > SHORT_REQUEST or "messages" in parameters:
                self._readers.submit(self._read, sender, ticket, tensors, parameters)
                return
        except BaseException as error:
            self._hand_over(Refused(sender, self._scheduler.refuse(ticket, error)))
            return
        self._read(sender, ticket, tensors, parameters)

    def close(self) -> None:
        """Answer what is open with an error, and end the thread."""
        self._arrived.put(None)
        self._thread.join()
        self._readers.shutdown(wait=False, cancel_futures=True)

    def _read(
        self, sender: Any, ticket: Ticket, tensors: dict[str, np.ndarray], parameters: str
    ) -> None:
        """In execute() if it is short, else on a thread of its own: nobody waits for long texts."""
        arrival: Prepared | Refused
        try:
            ask = read_ask(self._layout, tensors, parameters)
            request = self._scheduler.prepare(ask.prompt, ask.config)
            arrival = Prepared(sender, ask, request, ticket)
        except BaseException as error:
            arrival = Refused(sender, self._scheduler.refuse(ticket, error))
        self._hand_over(arrival)

    def _hand_over(self, arrival: Prepared | Refused) -> None:
        self._arrived.put(arrival)
        if self._ended:  # nobody will look there any more
            self._refuse_the_rest()

    def _run(self) -> None:
        try:
            while self._take():
                self._send(self._scheduler.step())
                self._drop_cancelled()
                self._metrics.report(self._scheduler.metrics())
        except BaseException as error:  # no request's: a bug
            self.failure = f"the model's worker died: {describe(error)}"
            log_fault(logging.CRITICAL, self.failure, error)
        self._end(self.failure or UNLOADED)
        if self.failure is not None:
            self._on_death(self.failure)

    def _end(self, reason: str) -> None:
        """Whatever has happened before, every request gets an answer."""
        self._scheduler.close(reason)
        closed = ServerClosedError(f"the request was not done: {reason}")
        for request in self._open.values():
            self._fail(request.sender, closed)
        self._ended = True
        self._refuse_the_rest()

    def _take(self) -> bool:
        """Enqueue what has come; waits while there is nothing to do. False at the end."""
        while True:
            idle = not self._scheduler.has_work
            if idle and self._arrived.empty():
                self._metrics.report(self._scheduler.metrics(), now=True)
            try:
                arrival = self._arrived.get(block=idle)
            except queue.Empty:
                return True
            if arrival is None:
                return False
            self._enqueue(arrival)

    def _enqueue(self, arrival: Prepared | Refused) -> None:
        if isinstance(arrival, Refused):
            self._fail(arrival.sender, arrival.error)
            return
        try:
            reply = Reply(arrival.ask, len(arrival.request.row.prompt))
            self._scheduler.enqueue(arrival.request, arrival.ticket)
        except BaseException as error:
            self._fail(arrival.sender, self._scheduler.refuse(arrival.ticket, error))
        else:
            self._open[arrival.request] = Open(arrival.sender, reply, time.monotonic())

    def _send(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            request = self._open.get(delivery.request)
            if request is None:  # cancelled meanwhile
                continue
            try:
                self._answer(request, delivery)
            except BaseException as error:  # its response cannot be made or sent
                self._drop(delivery.request, contained(error))
                continue
            if delivery.is_last:
                del self._open[delivery.request]

    def _answer(self, request: Open, delivery: Delivery) -> None:
        if isinstance(delivery.item, RiverError):
            self._fail(request.sender, delivery.item)
            return
        flags = self._pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL if delivery.is_last else 0
        for outputs in request.reply.add(delivery.item):
            tensors = [self._pb.Tensor(*output) for output in outputs.items()]
            response = self._pb.InferenceResponse(output_tensors=tensors)
            request.sender.send(response, flags=flags)

    def _drop(self, handle: Request, error: RiverError) -> None:
        """End a request that cannot be answered."""
        request = self._open.pop(handle)
        self._scheduler.cancel(handle)
        self._scheduler.count_internal_error()
        self._fail(request.sender, error)

    def _drop_cancelled(self) -> None:
        now = time.monotonic()
        for handle, request in list(self._open.items()):
            if now - request.looked < CANCEL_INTERVAL:
                continue
            request.looked = now
            try:
                gone = request.sender.is_cancelled()
            except BaseException as error:
                self._drop(handle, contained(error))
                continue
            if gone:
                self._scheduler.cancel(handle)
                del self._open[handle]
                self._fail(request.sender, RiverError("cancelled"), self._pb.TritonError.CANCELLED)

    def _fail(self, sender: Any, error: RiverError, kind: Any = None) -> None:
        """Never raises: a client that cannot be told is gone."""
        message = f"text_input: {error}" if isinstance(error, PromptError) else str(error)
        kind = self._kind(error) if kind is None else kind
        # What a request held may be no text that UTF-8 knows.
        text = message[:LONGEST_MESSAGE].encode(errors="backslashreplace").decode()
        try:
            response = self._pb.InferenceResponse(error=self._pb.TritonError(text, kind))
            sender.send(response, flags=self._pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        except BaseException as failure:
            contained(failure)

    def _kind(self, error: RiverError) -> Any:
        kinds = self._pb.TritonError
        if isinstance(error, RejectedError | ServerClosedError):
            return kinds.UNAVAILABLE
        return (
            kinds.INTERNAL if isinstance(error, EngineError | InternalError) else kinds.INVALID_ARG
        )

    def _refuse_the_rest(self) -> None:
        while True:
            try:
                arrival = self._arrived.get_nowait()
            except queue.Empty:
                return
            if arrival is not None:
                closed = ServerClosedError(self.failure or UNLOADED)
                self._fail(arrival.sender, closed)


def _string_bytes(tensors: dict[str, np.ndarray], parameters: str) -> int:
    """Of strings, which alone can be long and slow to read; of the others, their own size."""
    return len(parameters) + sum(
        sum(map(len, tensor.reshape(-1))) if tensor.dtype == object else tensor.nbytes
        for tensor in tensors.values()
    )
