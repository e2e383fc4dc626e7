"""The GPU that an engine is opened on."""

from contextlib import AbstractContextManager, nullcontext

import torch

from river_trt.errors import EngineError


def numbered_gpu(number: int, needs: str = "the engine needs an NVIDIA GPU") -> torch.device:
    """GPU `number` of this machine. EngineError where torch sees none, or not so many."""
    if torch.version.cuda is None:
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
