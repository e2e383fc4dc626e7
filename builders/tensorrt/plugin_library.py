"""The plugin library for the TensorRT that builds: found, or compiled on the spot."""

import os
from pathlib import Path
from typing import Any

from river_trt.backends.tensorrt.library import LIBRARIES
from river_trt.backends.tensorrt.opening import check_plugin_abi
from river_trt.errors import RiverError
from river_trt.plugin import PARTS, LibraryOptions, build_library, built_library
from river_trt.plugin.build import find_built
from river_trt.progress import Progress


def plugin_library(trt: Any, backend: str, progress: Progress) -> Path:
    """RIVER_TRT_PLUGIN, the cached library of that major version, or a new one.

    Raises RiverError where it cannot be compiled (no nvcc), or where the headers at hand are of
    another major version.
    """
    version = LIBRARIES[backend].plugin_abi or str(trt.__version__)
    part = PARTS["tensorrt"]
    if os.environ.get("RIVER_TRT_PLUGIN"):
        given = built_library(part.name, version)
        check_plugin_abi(given, version)
        return given
    library = find_built(part, version)
    if library is None:
        library, _ = build_library(LibraryOptions(), progress)
        if library.info.abi != part.abi(version):
            raise RiverError(
                f"the plugin was compiled with TensorRT {library.info.headers}'s headers, but "
                f"TensorRT {version} is installed; set TENSORRT_ROOT to that version"
            )
    return library.path
