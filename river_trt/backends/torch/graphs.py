"""A step as a CUDA graph: recorded once for its shapes, replayed after.

The flags never leave the device, so one recording holds for every depth: the kernels read the bank
that the flags name when they run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

Outputs = list[torch.Tensor]
WARM_UPS = 2  # libraries choose kernels and allocate on their first runs, which no graph may hold


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """A step over fixed buffers; `outputs` are overwritten by every replay."""

    replay: Callable[[], None]
    outputs: Outputs


def record(step: Callable[[], Outputs], pool: Any = None) -> Recording:
    """Record a step of the current GPU. It runs a few times: it must give the same each time.

    pool: memory that recordings share, one of `torch.cuda.graph_pool_handle()`. What a replay
    leaves there holds until the replay of another recording.
    """
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # Other threads may allocate meanwhile: a server loads one engine while another one works.
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        outputs = step()
    return Recording(graph.replay, outputs)


class Recorder:
    """Recordings of one session: they never run side by side, so they share their memory."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, step: Callable[[], Outputs]) -> Recording:
        return record(step, self._pool)
