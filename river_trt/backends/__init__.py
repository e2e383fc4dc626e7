"""The registry of backends; a backend's library is imported when its engine is opened."""

from importlib import import_module
from pathlib import Path

from river_trt.backends.base import DecodingLoop, Session, SessionOptions
from river_trt.errors import EngineError
from river_trt.manifest import Manifest
from river_trt.origin import this_build

BACKENDS = {
    "aotinductor": "river_trt.backends.aotinductor",
    "onnxruntime": "river_trt.backends.onnxruntime",
    "torch": "river_trt.backends.torch",
    "tensorrt": "river_trt.backends.tensorrt",
    "tensorrt-rtx": "river_trt.backends.tensorrt",
    "tensorrt-llm": "river_trt.backends.tensorrt_llm",
}


def open_session(
    directory: Path, manifest: Manifest, options: SessionOptions
) -> Session | DecodingLoop:
    """Open the engine file with the backend that the manifest names.

    Raises EngineError for a backend this version does not have, or an engine file or library
    version the backend cannot use.
    """
    if manifest.backend.name not in BACKENDS:
        raise EngineError(
            f"the engine needs the backend {manifest.backend.name!r}, but this river-trt has "
            f"{', '.join(BACKENDS)}; upgrade with {this_build().upgrade()}"
        )
    module = import_module(BACKENDS[manifest.backend.name])
    session: Session | DecodingLoop = module.open_session(directory, manifest, options)
    return session
