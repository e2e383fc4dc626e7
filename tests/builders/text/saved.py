"""A tokenizer's directory as models are published, read by transformers and by this project."""

import json
from pathlib import Path
from typing import Any

import tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from builders.checkpoints.text_files import read_special_tokens, read_templates
from river_trt.text import Tokenizer

TEMPLATES = Path(__file__).parent / "templates"


def template(name: str) -> str:
    return (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")


def save(directory: Path, raw: tokenizers.Tokenizer, **config: Any) -> Path:
    """config: of tokenizer_config.json."""
    directory.mkdir(parents=True, exist_ok=True)
    raw.save(str(directory / "tokenizer.json"))
    values = {"tokenizer_class": "PreTrainedTokenizerFast"} | config
    (directory / "tokenizer_config.json").write_text(json.dumps(values), encoding="utf-8")
    return directory


def theirs(directory: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(directory)


def ours(directory: Path) -> Tokenizer:
    raw = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    return Tokenizer(raw, read_templates(directory), read_special_tokens(directory))
