"""How long work takes on the card: replays of a CUDA graph."""

from collections.abc import Callable
from typing import Any

import torch

REPLAYS = 5
SPREAD_BYTES = 256 << 20  # of what launches read, more than any card's second cache
MIN_LAUNCHES = 8


def num_copies(num_bytes: int) -> int:
    """Of what a launch reads, so many that together they exceed the second cache."""
    return max(1, SPREAD_BYTES // num_bytes)


def launch_microseconds(launch: Callable[[int], None], copies: int) -> float:
    """Of launch(copy), over the copies in turn, as a model's layers go over their weights."""
    launches = max(MIN_LAUNCHES, copies)

    def work() -> None:
        for launched in range(launches):
            launch(launched % copies)

    return 1000.0 * graph_milliseconds(work) / launches


def graph_milliseconds(work: Callable[[], None]) -> float:
    """Of a CUDA graph of the work: the best of a few replays."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    times: list[float] = []
    for _ in range(REPLAYS + 1):
        begin, end = (_event() for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return min(times[1:])


def _event() -> Any:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
