"""A Hugging Face model directory: config.json, safetensors (one file or shards), tokenizer.json."""

import math
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from builders.checkpoints.base import read_json, write_templates
from builders.checkpoints.text_files import (
    GENERATION_CONFIG,
    eos_union,
    read_sampling,
    read_special_tokens,
    read_templates,
)
from builders.quiet import quietly
from river_trt.errors import CheckpointError
from river_trt.manifest import TextInfo
from river_trt.plain_file import open_plain
from river_trt.text import TOKENIZER_FILE

SENTENCEPIECE = "tokenizer.model"
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
        if not _write_tokenizer_json(self._directory, directory):
            return False
        write_templates(directory, read_templates(self._directory))
        if (self._directory / GENERATION_CONFIG).is_file():
            shutil.copyfile(self._directory / GENERATION_CONFIG, directory / GENERATION_CONFIG)
        return True

    def text_info(self) -> TextInfo:
        return TextInfo(read_special_tokens(self._directory), read_sampling(self._directory))


def _write_tokenizer_json(source: Path, directory: Path) -> bool:
    """Copied, or made by transformers from SentencePiece's tokenizer.model."""
    if (source / TOKENIZER_FILE).is_file():
        shutil.copyfile(source / TOKENIZER_FILE, directory / TOKENIZER_FILE)
        return True
    if not (source / SENTENCEPIECE).is_file():
        return False
    from transformers import AutoTokenizer

    try:
        with quietly():
            converted = AutoTokenizer.from_pretrained(source, local_files_only=True)
            converted.backend_tokenizer.save(str(directory / TOKENIZER_FILE))
    except Exception as error:  # whatever a converter raises
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{source / SENTENCEPIECE} cannot be converted ({type(error).__name__}: {reason}); "
            f"put a {TOKENIZER_FILE} beside it, or remove it for an engine that takes ids only"
        ) from error
    return True


def _read_config(directory: Path) -> dict[str, Any]:
    if not (directory / "config.json").is_file():
        raise CheckpointError(f"{directory} has no config.json: it is not a Hugging Face model")
    config = read_json(directory / "config.json")
    if (directory / GENERATION_CONFIG).is_file():
        stop = read_json(directory / GENERATION_CONFIG).get("eos_token_id")
        union = eos_union(stop, config.get("eos_token_id"))
        if stop is not None:  # as it is written where the other file adds none
            config["eos_token_id"] = stop if union == eos_union(stop) else union
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
        os.close(open_plain(file))  # safetensors would wait for a FIFO's other end
        with safe_open(file, framework="pt") as tensors:
            yield tensors
    except SafetensorError as error:
        raise CheckpointError(f"{file} is damaged or cut short: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror or error}") from error
