"""The two libraries that build and run engines: TensorRT, and TensorRT for RTX."""

import warnings
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from river_trt.errors import MissingDependencyError, RiverError


@dataclass(frozen=True, slots=True)
class TensorRTLibrary:
    """A backend's Python module and how it is installed."""

    backend: str
    module: str
    product: str
    minimum: tuple[int, int]
    install: str  # what to do where it is missing
    plugin_abi: str | None = None  # TensorRT version whose plugins it loads; None: its own


LIBRARIES = {
    library.backend: library
    for library in (
        TensorRTLibrary(
            "tensorrt",
            "tensorrt",
            "TensorRT",
            (10, 14),
            "pip install tensorrt, or run in nvcr.io/nvidia/tensorrt:25.12-py3",
        ),
        TensorRTLibrary(
            "tensorrt-rtx",
            "tensorrt_rtx",
            "TensorRT-RTX",
            (1, 7),
            "pip install tensorrt-rtx-cu13",
            plugin_abi="10",
        ),
    )
}


def load_library(backend: str) -> Any:
    """The module `trt` of the backend.

    Raises MissingDependencyError with the pip or container line, RiverError for a version older
    than this project was written for.
    """
    library = LIBRARIES[backend]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of deprecations inside the package
            trt = import_module(library.module)
    except ImportError as error:
        raise MissingDependencyError(
            f"{library.product} is not installed ({error}); {library.install}"
        ) from error
    if version_numbers(trt.__version__)[:2] < library.minimum:
        wanted = ".".join(map(str, library.minimum))
        raise RiverError(
            f"{library.product} {trt.__version__} is older than {wanted}; {library.install}"
        )
    return trt


def version_numbers(version: str) -> tuple[int, ...]:
    """10.14.1.48 as numbers, for comparing. RiverError for what is no version."""
    try:
        return tuple(int(part) for part in version.split("+")[0].split("."))
    except ValueError as error:
        raise RiverError(f"{version!r} is no version of TensorRT") from error
