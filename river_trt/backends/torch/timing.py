"""How long work takes on the card: replays of a CUDA graph."""

from collections.abc import Callable
from typing import Any

import torch

REPLAYS = 5


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
