"""TensorRT and TensorRT-RTX on a GPU, through their Python bindings and cuda-python. No torch."""

from pathlib import Path

from river_trt.backends.base import SessionOptions
from river_trt.manifest import Manifest
from river_trt.tensorrt.cuda import Cuda
from river_trt.tensorrt.library import load_library
from river_trt.tensorrt.opening import check_machine, deserialise, load_plugins
from river_trt.tensorrt.session import TensorRTSession


def open_session(directory: Path, manifest: Manifest, options: SessionOptions) -> TensorRTSession:
    """Deserialise the engine and allocate all that its steps need.

    Raises MissingDependencyError for a library that is not installed, EngineError for an engine of
    another GPU or version, RiverError for a plugin library that is missing and for a batch or a
    cache that the engine or the GPU's memory does not take.
    """
    trt = load_library(manifest.backend.name)
    cuda = Cuda.open()
    check_machine(manifest, trt, cuda.compute_capability())
    if manifest.backend.mode == "plugin":
        load_plugins(trt, manifest.backend.name)
    opened = deserialise(trt, directory / manifest.engine_file, manifest)
    return TensorRTSession(trt, cuda, opened, manifest, options)
