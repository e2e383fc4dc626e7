"""TensorRT and TensorRT-RTX on a GPU, through their Python bindings and cuda-python. No torch."""

from pathlib import Path

from river_trt.backends.base import SessionOptions
from river_trt.backends.tensorrt.opening import open_engine
from river_trt.backends.tensorrt.session import TensorRTSession
from river_trt.manifest import Manifest


def open_session(directory: Path, manifest: Manifest, options: SessionOptions) -> TensorRTSession:
    """Deserialise the engine and allocate all that its steps need.

    Raises what `open_engine` does, and RiverError for a batch or a cache that the engine or the
    GPU's memory does not take.
    """
    return TensorRTSession(open_engine(directory, manifest, options.gpu), manifest, options)
