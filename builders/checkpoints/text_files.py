"""What a Hugging Face directory says about text beside tokenizer.json, as transformers reads it.

tokenizer_config.json, special_tokens_map.json    the special tokens by name, older templates
chat_template.jinja, additional_chat_templates/   templates by name
generation_config.json                            how the publisher samples
"""

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from builders.checkpoints.base import read_json
from river_trt.config import GenerationConfig
from river_trt.errors import CheckpointError, RiverError
from river_trt.manifest import SamplingInfo
from river_trt.text.template import CHAT_TEMPLATE_FILE, DEFAULT, MORE_TEMPLATES

TOKENIZER_CONFIG = "tokenizer_config.json"
GENERATION_CONFIG = "generation_config.json"
OLD_SPECIAL_TOKENS = "special_tokens_map.json"
OLD_TEMPLATE = "chat_template.json"  # of processors, before chat_template.jinja
# What transformers' special_tokens_map has, and with it every template.
SPECIAL_TOKENS = tuple(
    f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
)
TEMPLATE_NAME = re.compile(r"[\w.-]+")  # it becomes a file's
SAMPLING = tuple(field.name for field in fields(SamplingInfo))


def read_special_tokens(directory: Path) -> dict[str, str]:
    """The named special tokens that a directory gives; null is none."""
    config = _optional(directory / TOKENIZER_CONFIG)
    stated = {name: config.get(name) for name in SPECIAL_TOKENS}
    if "added_tokens_decoder" not in config:  # files of before it
        stated |= _optional(directory / OLD_SPECIAL_TOKENS)
    tokens = {}
    for name in SPECIAL_TOKENS:
        value = stated[name]
        text = value.get("content") if isinstance(value, dict) else value
        if not (text is None or isinstance(text, str)):
            raise CheckpointError(f"{TOKENIZER_CONFIG}: {name} must be a string, got {value!r:.60}")
        if text is not None:
            tokens[name] = text
    return tokens


def read_templates(directory: Path) -> dict[str, str]:
    """The chat templates by name. Files of their own win over what is in other files."""
    files = {DEFAULT: directory / CHAT_TEMPLATE_FILE}
    for file in sorted(directory.glob(f"{MORE_TEMPLATES}/*.jinja")):
        files[file.name.removesuffix(".jinja")] = file
    templates: Any = {name: _text(file) for name, file in files.items() if file.is_file()}
    if not templates:
        for name in (TOKENIZER_CONFIG, OLD_TEMPLATE):
            stated = _optional(directory / name).get("chat_template")
            if stated is not None:
                return named_templates(stated, name)
    return _checked(templates, MORE_TEMPLATES)


def named_templates(stated: Any, where: str) -> dict[str, str]:
    """A template, a list of {"name", "template"}, or a dictionary of them, by name."""
    if isinstance(stated, str):
        stated = {DEFAULT: stated}
    if isinstance(stated, list):
        try:
            stated = {entry["name"]: entry["template"] for entry in stated}
        except (TypeError, KeyError) as error:
            raise CheckpointError(
                f"{where}: chat_template is a list, but not of objects with a name and a template"
            ) from error
    return _checked(stated, where)


def read_sampling(directory: Path) -> SamplingInfo:
    """The sampling of generation_config.json; greedy unless it says do_sample, as transformers."""
    config = _optional(directory / GENERATION_CONFIG)
    values = {name: config[name] for name in SAMPLING if config.get(name) is not None}
    try:
        GenerationConfig(**values)
    except RiverError as error:
        raise CheckpointError(f"{GENERATION_CONFIG}: {error}") from error
    if config:
        samples = config.get("do_sample") is True
        values["temperature"] = values.get("temperature", 1.0) if samples else 0.0
    return SamplingInfo(**values)


def eos_union(*stated: Any) -> list[int]:
    """The end-of-sequence ids of several files, each once; a file has none, one or a list."""
    ids: dict[int, None] = {}
    for value in stated:
        for token_id in value if isinstance(value, list) else [value]:
            if token_id is not None:
                ids[token_id] = None
    return list(ids)


def _checked(templates: Any, where: str) -> dict[str, str]:
    if not isinstance(templates, dict):
        raise CheckpointError(f"{where}: chat_template must be a text, or several by name")
    for name, source in templates.items():
        if not isinstance(source, str) or not TEMPLATE_NAME.fullmatch(str(name)):
            raise CheckpointError(f"{where}: the chat template {name!r:.60} has no name or no text")
    return templates


def _optional(file: Path) -> dict[str, Any]:
    return read_json(file) if file.is_file() else {}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except ValueError as error:
        raise CheckpointError(f"{file} is not UTF-8 text") from error
