"""Backends by name: what builds them, and their options. Each is imported when it is asked for."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from builders.options import BackendOptions
from river_trt.errors import RiverError


@dataclass(frozen=True, slots=True)
class Backend:
    build: str  # module with `build_engine(job)`, which imports the backend's libraries
    options: str  # module:class


_TENSORRT = Backend("builders.tensorrt.build", "builders.tensorrt.options:TensorRTOptions")
_TORCH = Backend("builders.aotinductor.build", "builders.aotinductor.options:AOTInductorOptions")
_LLM_OPTIONS = "builders.tensorrt_llm.options:TensorRTLLMOptions"
BACKENDS = {
    "aotinductor": _TORCH,
    "onnxruntime": Backend(
        "builders.onnxruntime.build", "builders.onnxruntime.options:OnnxRuntimeOptions"
    ),
    "torch": _TORCH,
    "tensorrt": _TENSORRT,
    "tensorrt-rtx": _TENSORRT,
    "tensorrt-llm": Backend("builders.tensorrt_llm.build", _LLM_OPTIONS),
    "tensorrt-llm-checkpoint": Backend(  # of `river-trt convert`
        "builders.tensorrt_llm.convert", _LLM_OPTIONS
    ),
    "river-checkpoint": Backend(  # of `river-trt convert --format vllm`
        "builders.vllm.convert", "builders.vllm.options:RiverCheckpointOptions"
    ),
}


def builder(backend: str) -> Callable[[Any], Any]:
    """`build_engine` of that backend: BuildJob to Manifest."""
    found: Callable[[Any], Any] = import_module(_backend(backend).build).build_engine
    return found


def options_of(backend: str) -> type[BackendOptions]:
    """The options of that backend; imports no library."""
    module, _, name = _backend(backend).options.partition(":")
    kind: type[BackendOptions] = getattr(import_module(module), name)
    return kind


def option_classes() -> dict[type[BackendOptions], list[str]]:
    """Every backend's options, with the names of the backends that have them."""
    found: dict[type[BackendOptions], list[str]] = {}
    for name in BACKENDS:
        found.setdefault(options_of(name), []).append(name)
    return found


def _backend(name: str) -> Backend:
    if name not in BACKENDS:
        raise RiverError(f"backend {name!r} is not offered; choose one of {', '.join(BACKENDS)}")
    return BACKENDS[name]
