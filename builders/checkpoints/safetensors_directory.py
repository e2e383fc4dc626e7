"""A Hugging Face model directory: config.json, safetensors (one file or shards), tokenizer.json."""

import math
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from builders.checkpoints.base import read_json
from river_trt.errors import CheckpointError

SINGLE_FILE = "model.safetensors"
SHARD_INDEX = "model.safetensors.index.json"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth")
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class SafetensorsDirectory:
    def __init__(self, directory: Path, name: str | None = None) -> None:
        self._directory = directory
        self.name = name or directory.resolve().name
        self.config = _read_config(directory)
        self._files: dict[str, Path] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        elements: Counter[str] = Counter()
        for file in _weight_files(directory):
            with _open(file) as tensors:
                for tensor in tensors.keys():  # noqa: SIM118  (safe_open is no dict)
                    header = tensors.get_slice(tensor)
                    self._files[tensor] = file
                    self._shapes[tensor] = tuple(header.get_shape())
                    elements[header.get_dtype()] += math.prod(self._shapes[tensor])
        self.tensor_names = frozenset(self._files)
        if not elements:
            raise CheckpointError(f"{directory} holds no tensors")
        stored = elements.most_common(1)[0][0]
        if stored not in DTYPES:
            raise CheckpointError(
                f"{directory} stores its weights as {stored}; only F32, F16 and BF16 can be read"
            )
        self.dtype = DTYPES[stored]

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def tensor(self, name: str) -> torch.Tensor:
        with _open(self._files[name]) as tensors:
            tensor: torch.Tensor = tensors.get_tensor(name)
        return tensor

    def write_tokenizer(self, directory: Path) -> bool:
        if not (self._directory / "tokenizer.json").is_file():
            return False
        for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
            if (self._directory / name).is_file():
                shutil.copyfile(self._directory / name, directory / name)
        if not (directory / "chat_template.jinja").exists():
            template = _embedded_chat_template(self._directory / "tokenizer_config.json")
            if template:
                (directory / "chat_template.jinja").write_text(template, encoding="utf-8")
        return True


def _read_config(directory: Path) -> dict[str, Any]:
    if not (directory / "config.json").is_file():
        raise CheckpointError(f"{directory} has no config.json: it is not a Hugging Face model")
    config = read_json(directory / "config.json")
    generation = directory / "generation_config.json"
    if generation.is_file():
        stop = read_json(generation).get("eos_token_id")
        if stop is not None:
            config["eos_token_id"] = stop
    return config


def _weight_files(directory: Path) -> list[Path]:
    """The files that hold the weights, in transformers' order of preference; all of them exist."""
    if (directory / SINGLE_FILE).is_file():
        return [directory / SINGLE_FILE]
    if (directory / SHARD_INDEX).is_file():
        return _shards(directory)
    pickles = sorted(p.name for p in directory.iterdir() if p.suffix in PICKLE_SUFFIXES)
    if pickles:
        raise CheckpointError(
            f"{directory} holds pickled weights ({pickles[0]}), which can run code when read; "
            "only safetensors are read, so save the model with safe_serialization=True first"
        )
    raise CheckpointError(f"{directory} has neither {SINGLE_FILE} nor {SHARD_INDEX}")


def _shards(directory: Path) -> list[Path]:
    index = directory / SHARD_INDEX
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map")
    shards = sorted({str(shard) for shard in weight_map.values()})
    for shard in shards:
        # A plain name only. The file itself may be a link: the hub's cache is made of them.
        if shard in (".", "..") or "/" in shard or "\\" in shard:
            raise CheckpointError(f"{index} names a shard outside the directory: {shard!r}")
        if not (directory / shard).is_file():
            raise CheckpointError(f"{directory} lacks {shard}, which {SHARD_INDEX} lists")
    for shard in shards:
        listed = {name for name, file in weight_map.items() if file == shard}
        with _open(directory / shard) as tensors:
            wrong = sorted(listed ^ set(tensors.keys()))
        if wrong:
            raise CheckpointError(f"{SHARD_INDEX} and {shard} disagree about {wrong[0]}")
    return [directory / shard for shard in shards]


@contextmanager
def _open(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, framework="pt") as tensors:
            yield tensors
    except SafetensorError as error:
        raise CheckpointError(f"{file} is damaged or cut short: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error


def _embedded_chat_template(tokenizer_config: Path) -> str | None:
    """The chat template of a checkpoint saved before transformers wrote chat_template.jinja."""
    if not tokenizer_config.is_file():
        return None
    template = read_json(tokenizer_config).get("chat_template")
    if isinstance(template, list):  # several named templates
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    return template
