"""A request on its way through the scheduler."""

import time
from dataclasses import dataclass, field

from river_trt.errors import RiverError
from river_trt.results import TokenEvent
from river_trt.row import Row


@dataclass(slots=True, eq=False)
class Request:
    """A handle: give it back to `Scheduler.cancel`. Times are of time.perf_counter, in seconds."""

    row: Row
    submitted: float = field(default_factory=time.perf_counter)
    cancelled: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Delivery:
    """A token of a request or the error that ended it; the last token holds the result."""

    request: Request
    item: TokenEvent | RiverError

    @property
    def is_last(self) -> bool:
        return isinstance(self.item, RiverError) or self.item.result is not None
