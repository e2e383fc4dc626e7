"""river-trt: run River engines, decoders that leave their full-precision layers token by token."""

__version__ = "0.2.0"

from river_trt.config import GenerationConfig
from river_trt.engine import Engine, load
from river_trt.errors import CheckpointError, EngineError, MissingDependencyError, RiverError
from river_trt.results import GenerationResult, TokenEvent
from river_trt.spec import ExitPolicy
from river_trt.text import Chat, ChatOptions

__all__ = [
    "Chat",
    "ChatOptions",
    "CheckpointError",
    "Engine",
    "EngineError",
    "ExitPolicy",
    "GenerationConfig",
    "GenerationResult",
    "MissingDependencyError",
    "RiverError",
    "TokenEvent",
    "load",
]
