"""What the building process is asked for, and how it answers: JSON between two of our processes."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from builders.tensorrt.options import Profile, TensorRTOptions


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """One engine to build."""

    backend: str  # a key of river_trt.backends.tensorrt.library.LIBRARIES
    target: str
    graph: Path  # ONNX, with its weights file beside it
    engine: Path
    record: Path
    log: Path
    max_seq_len: int
    options: TensorRTOptions
    plugin_library: Path | None = None
    timing_cache: Path | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> "BuildRequest":
        data = json.loads(text)
        paths = ("graph", "engine", "record", "log", "plugin_library", "timing_cache")
        for name in paths:
            data[name] = None if data[name] is None else Path(data[name])
        options = data["options"]
        options["profiles"] = tuple(map(Profile.from_table, options["profiles"]))
        return cls(**(data | {"options": TensorRTOptions(**options)}))
