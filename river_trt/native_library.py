"""The native CPU kernels as operators of ONNX Runtime, compiled on first need."""

from pathlib import Path

from river_trt.compiled_library import CppLibrary, read_sources
from river_trt.progress import Progress, silent

# Of the operators and the weight layout that engines name; engines of another one do not load.
ABI_VERSION = 2
DOMAIN = "river_trt.cpu"
# The operator of a layer, by what the KV cache holds.
BLOCKS = {"float32": "Block", "float16": "BlockFloat16Cache", "int8": "BlockInt8Cache"}


def native_library(progress: Progress = silent) -> Path:
    """The compiled library; compiles it (some seconds) unless that was done before.

    Raises RiverError where it must be compiled and no C++ compiler can.
    """
    from river_trt.plugin.sources import source_directory  # not for engines without native kernels

    library = CppLibrary(
        name="river_cpu",
        what="the native CPU kernels",
        instead="build the engine with --kernels onnxruntime",
        sources=read_sources(source_directory() / "cpu"),
        standard="c++17",
    )
    return library.compile_once(progress)
