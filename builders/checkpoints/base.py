"""What a model's weights look like to the builders, whatever they are stored in."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from river_trt.errors import CheckpointError
from river_trt.json_text import parse_json
from river_trt.manifest import TextInfo
from river_trt.plain_file import read_plain
from river_trt.text.template import template_file

MOST_JSON_BYTES = 256 << 20


class Checkpoint(Protocol):
    """Lazily read weights under their Hugging Face names; nothing is cached.

    `config` is the checkpoint's config.json, with the stop tokens of generation_config.json where
    it has some: transformers' `generate` obeys those.
    """

    name: str
    config: dict[str, Any]
    tensor_names: frozenset[str]
    dtype: torch.dtype  # the dtype of most of the weights

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        ...

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor, in its stored dtype."""
        ...

    def write_tokenizer(self, directory: Path) -> bool:
        """Write tokenizer.json and, where present, chat templates and generation_config.json.

        False, and nothing written, for a checkpoint without a tokenizer. Raises CheckpointError
        for one that cannot be read.
        """
        ...

    def text_info(self) -> TextInfo:
        """The special tokens that templates know by name, and how the publisher samples."""
        ...


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; CheckpointError names the file when it is not one."""
    try:
        value = parse_json(read_plain(path, MOST_JSON_BYTES).decode("utf-8"))
    except ValueError as error:  # invalid JSON, or not UTF-8
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object, not a {type(value).__name__}")
    return value


def write_templates(directory: Path, templates: Mapping[str, str]) -> None:
    """Chat templates by name, where an engine has them."""
    for name, source in templates.items():
        file = directory / template_file(name)
        file.parent.mkdir(exist_ok=True)
        file.write_text(source, encoding="utf-8", newline="")
