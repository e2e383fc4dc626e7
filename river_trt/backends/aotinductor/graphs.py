"""A decode step as a CUDA graph: recorded once for its shapes, replayed after.

The flags never leave the device, so one recording holds for every depth: the kernels read the bank
that the flags name when they run.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

Outputs = list[torch.Tensor]
WARM_UPS = 2  # libraries choose kernels and allocate on their first runs, which no graph may hold


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """A step over fixed buffers; `outputs` are overwritten by every replay."""

    replay: Callable[[], None]
    outputs: Outputs


def record(step: Callable[[], Outputs]) -> Recording:
    """Record a step of the current GPU. It runs a few times: it must give the same each time."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = step()
    return Recording(graph.replay, outputs)
