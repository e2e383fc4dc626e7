"""Recorded programs: calls of torch operators in a JSON file, replayed as CUDA graphs.

program.py   the file's calls, checked and run
schemas.py   the CUDA operators' signatures, for machines without their library
opening.py   from an engine directory to a session

This backend imports torch. Nothing is compiled for an engine: it runs on every GPU and every torch
that the operators' library is built for on the spot.
"""

try:
    import torch  # noqa: F401
except ImportError as error:
    from river_trt.errors import MissingDependencyError
    from river_trt.origin import this_build

    raise MissingDependencyError(
        f"a torch engine needs torch, which is not installed: {this_build().install('torch')}"
    ) from error

from river_trt.backends.torch.opening import open_session

__all__ = ["open_session"]
