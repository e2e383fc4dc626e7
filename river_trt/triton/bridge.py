"""Between Triton's requests and the scheduler: one thread owns both, and all that Triton gave us.

execute() -- queue --> thread: read, submit -- step -- send responses, look for cancellations
"""

import queue
import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from river_trt.engine import Engine
from river_trt.errors import PromptError, RiverError
from river_trt.serving.errors import RejectedError, ServerClosedError
from river_trt.serving.request import Delivery, Request
from river_trt.triton.ask import read_ask
from river_trt.triton.fields import Layout
from river_trt.triton.prometheus import PrometheusMetrics
from river_trt.triton.reply import Reply

CANCEL_INTERVAL = 0.05  # seconds between two looks at whether a client has gone


@dataclass(frozen=True, slots=True)
class Incoming:
    sender: Any
    tensors: dict[str, np.ndarray]
    parameters: str  # JSON


@dataclass(slots=True)
class Open:
    """A request that has not got its last response."""

    sender: Any
    reply: Reply
    looked: float  # time.monotonic() of the last look for a cancellation


class Bridge:
    """pb_utils: the module triton_python_backend_utils, which exists only inside the server."""

    def __init__(
        self, engine: Engine, layout: Layout, max_queue: int, model_name: str, pb_utils: Any
    ) -> None:
        self._layout, self._pb = layout, pb_utils
        self._scheduler = engine.scheduler(max_queue=max_queue)
        self._metrics = PrometheusMetrics(pb_utils, model_name)
        self._open: dict[Request, Open] = {}
        self._requests: queue.SimpleQueue[Incoming | None] = queue.SimpleQueue()  # None: the end
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="river-trt", daemon=True)
        self._thread.start()

    def put(self, request: Any) -> None:
        """Called in execute(): a request's inputs are gone once that returns."""
        tensors = {tensor.name(): tensor.as_numpy().copy() for tensor in request.inputs()}
        incoming = Incoming(request.get_response_sender(), tensors, request.parameters())
        self._requests.put(incoming)
        if self._ended:  # nobody will look there any more
            self._refuse_the_rest()

    def close(self) -> None:
        """Answer what is open with an error, and end the thread."""
        self._requests.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._take():
                self._send(self._scheduler.step())
                self._drop_cancelled()
                self._metrics.report(self._scheduler.metrics())
        finally:  # an error here is a bug; even so every request gets an answer
            self._send(self._scheduler.close())
            self._ended = True
            self._refuse_the_rest()

    def _take(self) -> bool:
        """Submit what has come; waits while there is nothing to do. False at the end."""
        while True:
            idle = not self._scheduler.has_work
            if idle and self._requests.empty():
                self._metrics.report(self._scheduler.metrics(), now=True)
            try:
                request = self._requests.get(block=idle)
            except queue.Empty:
                return True
            if request is None:
                return False
            self._submit(request)

    def _submit(self, incoming: Incoming) -> None:
        sender = incoming.sender
        try:
            ask = read_ask(self._layout, incoming.tensors, incoming.parameters)
            handle = self._scheduler.submit(ask.prompt, ask.config)
        except RejectedError as error:
            self._fail(sender, str(error), self._pb.TritonError.UNAVAILABLE)
        except PromptError as error:
            self._fail(sender, f"text_input: {error}", self._pb.TritonError.INVALID_ARG)
        except RiverError as error:
            self._fail(sender, str(error), self._pb.TritonError.INVALID_ARG)
        else:
            reply = Reply(ask, len(handle.row.prompt))
            self._open[handle] = Open(sender, reply, time.monotonic())

    def _send(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            request = self._open.get(delivery.request)
            if request is None:  # cancelled meanwhile
                continue
            if isinstance(delivery.item, RiverError):
                closed = isinstance(delivery.item, ServerClosedError)
                kind = self._pb.TritonError.UNAVAILABLE if closed else None
                self._fail(request.sender, str(delivery.item), kind)
            else:
                flags = self._pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL if delivery.is_last else 0
                for outputs in request.reply.add(delivery.item):
                    tensors = [self._pb.Tensor(*output) for output in outputs.items()]
                    response = self._pb.InferenceResponse(output_tensors=tensors)
                    request.sender.send(response, flags=flags)
            if delivery.is_last:
                del self._open[delivery.request]

    def _drop_cancelled(self) -> None:
        now = time.monotonic()
        for handle, request in list(self._open.items()):
            if now - request.looked < CANCEL_INTERVAL:
                continue
            request.looked = now
            if request.sender.is_cancelled():
                self._scheduler.cancel(handle)
                del self._open[handle]
                self._fail(request.sender, "cancelled", self._pb.TritonError.CANCELLED)

    def _fail(self, sender: Any, message: str, kind: Any = None) -> None:
        kind = self._pb.TritonError.INTERNAL if kind is None else kind
        response = self._pb.InferenceResponse(error=self._pb.TritonError(message, kind))
        sender.send(response, flags=self._pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _refuse_the_rest(self) -> None:
        while True:
            try:
                request = self._requests.get_nowait()
            except queue.Empty:
                return
            if request is not None:
                message, kind = "the model is being unloaded", self._pb.TritonError.UNAVAILABLE
                self._fail(request.sender, message, kind)
