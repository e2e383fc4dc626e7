"""The GPU that an engine is opened on."""

import time
from contextlib import AbstractContextManager, nullcontext

import torch

from river_trt.errors import EngineError

COPIED_BYTES, COPIES = 2 << 30, 6  # long ones: the launch and the wait are counted too


def numbered_gpu(number: int, needs: str = "the engine needs an NVIDIA GPU") -> torch.device:
    """GPU `number` of this machine. EngineError where torch sees none, or not so many."""
    if not torch.cuda.is_available() and torch.version.cuda is None:
        raise EngineError(
            f"{needs}, but torch {torch.__version__} is built without CUDA; install a torch with "
            "it (https://pytorch.org), or build an engine for the CPU with --target cpu"
        )
    if not torch.cuda.is_available():
        raise EngineError(
            f"{needs}, but torch {torch.__version__} sees none on this machine (does nvidia-smi?); "
            "without one, build an engine with --target cpu"
        )
    count = torch.cuda.device_count()
    if number >= count:
        raise EngineError(f"there is no GPU {number}: torch sees {count}, numbered from 0")
    return torch.device("cuda", number)


def current(device: torch.device) -> AbstractContextManager[object]:
    """Make the device the calling thread's own: streams, graphs and kernels follow that."""
    if device.type == "cpu":
        return nullcontext()
    context: AbstractContextManager[object] = torch.cuda.device(device)
    return context


def copy_bandwidth(device: torch.device) -> float:
    """Bytes/s that large copies within its memory read and write together: the best of some."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 1 << 28
    size = min(COPIED_BYTES, free // 4)
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(COPIES):
        started = time.perf_counter()
        target.copy_(source)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size / best
