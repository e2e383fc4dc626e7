"""1/model.json of an exported model: where its engine is and how it is loaded."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from river_trt.engine import DEFAULT_MAX_QUEUE, Engine, load
from river_trt.errors import RiverError
from river_trt.json_text import parse_json
from river_trt.triton.fields import find_layout

SETTINGS_FILE = "model.json"


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """Checked when made. Raises RiverError naming the value and the rule.

    engine: directory, relative to the model.json's or absolute. max_batch_size: requests that
    decode together. max_queue: requests that may wait beyond those. prefill_chunk: prompt tokens
    that run between two decode steps. Others as in river_trt.load.
    """

    engine: str
    layout: str = "vllm"
    max_batch_size: int = 8
    max_queue: int = DEFAULT_MAX_QUEUE
    max_seq_len: int | None = None
    prefill_chunk: int = 64
    threads: int | None = None
    batch_invariant: bool = True
    verify: bool = True

    def __post_init__(self) -> None:
        find_layout(self.layout)
        for name, least in (("max_batch_size", 1), ("max_queue", 0), ("prefill_chunk", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise RiverError(f"{name} must be a whole number of at least {least}: {value!r}")

    @classmethod
    def read(cls, directory: Path) -> "ModelSettings":
        """Raises RiverError for a file that is missing or no JSON, and for unknown keys."""
        path = directory / SETTINGS_FILE
        try:
            values = parse_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RiverError(f"{path} cannot be read: {error}; export the model again") from error
        known = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, dict) or not values.keys() <= known or "engine" not in values:
            raise RiverError(f"{path} must hold an object with engine and any of {sorted(known)}")
        return cls(**values)

    def write(self, directory: Path) -> None:
        text = json.dumps(dataclasses.asdict(self), indent=2)
        (directory / SETTINGS_FILE).write_text(text + "\n", encoding="utf-8")

    def load_engine(self, directory: Path, device: str | None = None) -> Engine:
        """As river_trt.load, from the directory that holds the model.json."""
        engine = load(
            directory / self.engine,
            max_batch_size=self.max_batch_size,
            max_seq_len=self.max_seq_len,
            threads=self.threads,
            verify=self.verify,
            prefill_chunk=self.prefill_chunk,
            batch_invariant=self.batch_invariant,
            device=device,
        )
        if engine.tokenizer is None:
            raise RiverError(
                f"{self.engine} has no tokenizer, and Triton's layouts carry text; "
                "build the engine from a model that has one"
            )
        return engine
