"""AOTInductor packages: torch runs them, on the CPU or on one CUDA card.

This backend imports torch. Everything else of river_trt does without.
"""

try:
    import torch  # noqa: F401
except ImportError as error:
    from river_trt.errors import MissingDependencyError
    from river_trt.origin import this_build

    raise MissingDependencyError(
        "an aotinductor engine needs torch, which is not installed: "
        f"{this_build().install('aotinductor')}"
    ) from error

from river_trt.backends.aotinductor.opening import open_session

__all__ = ["open_session"]
