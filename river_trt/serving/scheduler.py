"""Who runs next: admission, prefill in pieces, decode steps. No thread of its own."""

import dataclasses
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from river_trt.config import GenerationConfig
from river_trt.decoding import Decoder, Outcome
from river_trt.errors import EngineError, RiverError
from river_trt.faults import InternalError, contained, describe
from river_trt.results import TokenEvent
from river_trt.row import Row
from river_trt.serving.errors import RejectedError, ServerClosedError
from river_trt.serving.metrics import ServingMetrics
from river_trt.serving.request import Delivery, Request


class Ticket:
    """A place under the admission limit, from `Scheduler.reserve`."""


class Scheduler:
    """Requests over one engine's cache; from `Engine.scheduler`.

    `step` and, in the end, `close` are of one thread, the rest may be called from any. Requests are
    admitted in the order they came. A step runs at most one chunk's worth of prompt tokens and
    then one decode step of every group, so neither prompts nor texts wait for the others' end.

    `submit` is reserve, prepare, enqueue: who tokenises long prompts beside the stepping thread
    takes the three apart. Whatever a request raises ends that request alone.
    """

    def __init__(
        self,
        decoder: Decoder,
        make_row: Callable[[int, Any, GenerationConfig], Row],
        release: Callable[[], None],
        max_batch_size: int,
        max_queue: int,
    ) -> None:
        """make_row checks a prompt and a config; release is called once, on close."""
        self.max_batch_size, self.max_queue = max_batch_size, max_queue
        self._decoder, self._make_row, self._release = decoder, make_row, release
        self._lock = threading.Lock()  # of everything below
        self._tickets: set[Ticket] = set()  # of requests that are being read
        self._waiting: deque[Request] = deque()
        self._running: dict[Row, Request] = {}
        self._counts: dict[str, float] = dict.fromkeys(
            (f.name for f in dataclasses.fields(ServingMetrics)), 0
        )
        self._closed = ""  # why, once it is

    def submit(self, prompt: Any, config: GenerationConfig | None = None) -> Request:
        """Queue a request: a string or token ids, as `Engine.generate` takes.

        Raises RiverError for a prompt or config that cannot run here, RejectedError when
        max_batch_size + max_queue requests are there, ServerClosedError after `close`,
        InternalError for a fault of ours.
        """
        ticket = self.reserve()
        try:
            request = self.prepare(prompt, config)
        except BaseException as error:
            raise self.refuse(ticket, error) from error
        self.enqueue(request, ticket)
        return request

    def reserve(self) -> Ticket:
        """A place for a request that is still to be read; RejectedError when there is none."""
        with self._lock:
            self._check_open()
            if self._places_taken() >= self.max_batch_size + self.max_queue:
                self._counts["rejected"] += 1
                raise RejectedError(
                    f"the server is full: {self.max_batch_size} requests run and "
                    f"{self.max_queue} wait; try again later"
                )
            ticket = Ticket()
            self._tickets.add(ticket)
        return ticket

    def prepare(self, prompt: Any, config: GenerationConfig | None = None) -> Request:
        """Check and tokenise, which takes long for a long prompt; nothing is queued yet."""
        request = Request(self._make_row(0, prompt, config or GenerationConfig()))
        self._check(request.row)
        return request

    def enqueue(self, request: Request, ticket: Ticket) -> None:
        """Let a prepared request wait for its turn; ServerClosedError after `close`."""
        with self._lock:
            self._tickets.discard(ticket)
            self._check_open()
            self._waiting.append(request)

    def refuse(self, ticket: Ticket | None, error: BaseException) -> RiverError:
        """Free the place of a request that failed while it was read; returns what to answer."""
        try:
            answer = contained(error)
        finally:
            self.give_back(ticket)
        internal = isinstance(answer, InternalError)
        if not isinstance(answer, RejectedError | ServerClosedError):
            self._count(**{"internal_errors" if internal else "invalid": 1})
        return answer

    def give_back(self, ticket: Ticket | None) -> None:
        """Free a place that will not be used."""
        with self._lock:
            if ticket is not None:
                self._tickets.discard(ticket)

    def cancel(self, request: Request) -> None:
        """Nothing is delivered for it any more; its cache row is free before the next step.

        Without effect on a request that is done.
        """
        with self._lock:
            if request in self._waiting:
                self._waiting.remove(request)
                self._counts["cancelled"] += 1
            request.cancelled = True

    @property
    def has_work(self) -> bool:
        with self._lock:
            return bool(self._waiting or self._running)

    def metrics(self) -> ServingMetrics:
        """What it has done so far; from any thread."""
        with self._lock:
            counts: dict[str, Any] = dict(self._counts)
            counts |= {"running": len(self._running), "waiting": len(self._waiting)}
        return ServingMetrics(**counts)

    def step(self) -> list[Delivery]:
        """Prefill a little, then decode one token of every row that is ready."""
        self._drop_cancelled()
        deliveries = self._prefill()
        for group in list(self._decoder.rows.groups):
            outcomes = self._guarded(group.rows, partial(self._decoder.decode, group))
            self._count(decode_steps=1)
            self._set(**dataclasses.asdict(self._decoder.lossless.counts))
            deliveries += [self._deliver(outcome) for outcome in outcomes]
        return deliveries

    def close(self, reason: str = "the server is closed") -> list[Delivery]:
        """End all requests with ServerClosedError and give the engine back.

        reason: what later requests are told.
        """
        with self._lock:
            if self._closed:
                return []
            self._closed = reason
            self._tickets.clear()
            left = [*self._running.values(), *self._waiting]
            self._running.clear()
            self._waiting.clear()
        self._release()
        error = ServerClosedError(f"the request was not done: {reason}")
        return [Delivery(request, error) for request in left if not request.cancelled]

    def _check_open(self) -> None:
        if self._closed:
            raise ServerClosedError(self._closed)

    def _places_taken(self) -> int:
        return len(self._tickets) + len(self._waiting) + len(self._running)

    def _check(self, row: Row) -> None:
        """What one request may not ask for, because the others would notice."""
        if row.config.gate_scope != "token":
            raise RiverError(
                "gate_scope must be 'token' in a server: 'batch' would tie the requests together"
            )
        chunk, length = self._decoder.prefill_chunk, len(row.prompt)
        if row.config.prefill == "sequence" and length > chunk:
            raise RiverError(
                f"prefill 'sequence' runs a prompt as a whole, and a server takes {chunk} tokens "
                f"at a time, but the prompt has {length}; use 'off', or a larger prefill_chunk"
            )

    def _prefill(self) -> list[Delivery]:
        deliveries: list[Delivery] = []
        budget = self._decoder.prefill_chunk
        while row := self._decoder.rows.prefilling or self._admit():
            size = self._decoder.next_chunk(row)
            if size > budget:
                break
            budget -= size
            started = time.perf_counter()
            outcomes = self._guarded([row], self._decoder.prefill)
            self._count(prefill_tokens=size, prefill_seconds=time.perf_counter() - started)
            deliveries += [self._deliver(outcome) for outcome in outcomes]
        return deliveries

    def _admit(self) -> Row | None:
        """The request that has waited longest, if there is a place for it."""
        with self._lock:
            if not self._waiting or len(self._running) >= self.max_batch_size:
                return None
            request = self._waiting.popleft()
            self._running[request.row] = request
            self._counts["admitted"] += 1
            self._counts["queue_seconds"] += time.perf_counter() - request.submitted
            self._counts["prompt_tokens"] += len(request.row.prompt)
        self._decoder.rows.begin(request.row)
        self._count(reused_tokens=request.row.reused_tokens)
        return request.row

    def _drop_cancelled(self) -> None:
        with self._lock:
            gone = [row for row, request in self._running.items() if request.cancelled]
            for row in gone:
                del self._running[row]
            self._counts["cancelled"] += len(gone)
        for row in gone:
            self._decoder.rows.remove(row, keep=True)

    def _guarded(self, rows: list[Row], step: Callable[[], list[Outcome]]) -> list[Outcome]:
        """A step that fails ends its own rows and no others."""
        try:
            return step()
        except BaseException as error:  # whatever a backend's library raises
            contained(error)
            for row in rows:
                if row in self._decoder.rows:  # some may have left before the error
                    self._decoder.rows.remove(row)
            failure = EngineError(f"the engine's step failed: {describe(error)}")
            return [Outcome(row, failure) for row in rows]

    def _deliver(self, outcome: Outcome) -> Delivery:
        item = outcome.event
        now = time.perf_counter()
        with self._lock:
            request = self._running[outcome.row]
            counts, waited = self._counts, now - request.submitted
            if isinstance(item, TokenEvent):
                counts["generated_tokens"] += 1
                if len(outcome.row.token_ids) == 1:
                    counts["started"] += 1
                    counts["first_token_seconds"] += waited
                else:
                    counts["decode_tokens"] += 1
                    counts["backbone_layers"] += item.backbone_layers
            delivery = Delivery(request, item)
            if delivery.is_last:
                del self._running[outcome.row]
                failed = isinstance(item, RiverError)
                counts["failed" if failed else "completed"] += 1
                counts["latency_seconds"] += 0.0 if failed else waited
        return delivery

    def count_internal_error(self) -> None:
        """Of a request that was done here, but could not be answered."""
        self._count(internal_errors=1)

    def _count(self, **increments: float) -> None:
        with self._lock:
            for name, increment in increments.items():
                self._counts[name] += increment

    def _set(self, **values: float) -> None:
        with self._lock:
            self._counts.update(values)
