"""layers.json: what TensorRT's network held when an engine was built, for people and tests.

It needs neither TensorRT nor a GPU to be read. The engine itself may fuse what stands here.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from river_trt.errors import EngineError
from river_trt.json_text import parse_json
from river_trt.manifest import REBUILD
from river_trt.plain_file import read_text

RECORD_FILE = "layers.json"
MOST_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class CacheSlot:
    """Where one tensor of a layer's cache is updated."""

    cache: str  # k_cache.0
    updated_by: str  # the network layer
    in_conditional: bool  # False: every bank writes the same slot


@dataclass(frozen=True, slots=True)
class NetworkLayer:
    """A layer as TensorRT's network has it."""

    name: str
    type: str  # TensorRT's layer type; for a plugin its name
    precision: str  # of its first output
    weight_bytes: int  # of a constant


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """The network of an engine."""

    library: str  # TensorRT-RTX 1.7.1.116
    mode: str
    compute_capability: str
    plugins: dict[str, int]  # plugin name to how many
    gates: int
    linears: int  # of both banks: a plugin, or a product in one branch
    attentions: int
    conditionals: int
    cache_slots: tuple[CacheSlot, ...]
    weight_bytes: dict[str, int]  # precision to bytes
    layers: tuple[NetworkLayer, ...]

    def to_json(self) -> str:
        """The text of layers.json."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "LayerRecord":
        """The inverse of to_json; raises EngineError for a text that is no record."""
        try:
            data: dict[str, Any] = parse_json(text)
            slots = tuple(CacheSlot(**slot) for slot in data["cache_slots"])
            layers = tuple(NetworkLayer(**layer) for layer in data["layers"])
            return cls(**(data | {"cache_slots": slots, "layers": layers}))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise EngineError(f"{RECORD_FILE} cannot be read ({error}); {REBUILD}") from error


def read_record(directory: Path) -> LayerRecord | None:
    """None for an engine that has none: those of other backends."""
    path = directory / RECORD_FILE
    return LayerRecord.from_json(read_text(path, MOST_BYTES)) if path.exists() else None
