"""Which GPU an engine runs on, from what a caller writes."""

import re

from river_trt.errors import RiverError


def gpu_index(device: str | None, backend: str, target: str) -> int:
    """The GPU's number for "cuda", "cuda:1" or None (the first one); 0 for an engine of a CPU.

    target: the engine's, "cpu" or a GPU. Raises RiverError for a device that the engine is not for.
    """
    if device is None:
        return 0
    kind = "cpu" if target == "cpu" else "cuda"
    match = re.fullmatch(r"(cpu|cuda)(?::(\d{1,4}))?", device)
    if match is None or (match[1] == "cpu" and match[2] is not None):
        raise RiverError(f"device must be cpu, cuda or cuda:N, got {device!r}")
    if match[1] != kind:
        raise RiverError(
            f"device {device!r}: this engine of {backend} is for target {target}, "
            f"so it runs on {kind} only"
        )
    return int(match[2] or 0)
