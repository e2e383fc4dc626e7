"""The tokenizer in a GGUF file, built by transformers, with what it leaves out."""

import json
from pathlib import Path
from typing import Any

import tokenizers
from gguf import GGUFReader

from builders.quiet import quietly
from river_trt.errors import CheckpointError

TOKENS = "tokenizer.ggml.tokens"
PREFIXES = ("Prepend", "Strip")  # normalizer and decoder that add and drop a text's first space


def has_tokenizer(reader: GGUFReader) -> bool:
    return TOKENS in reader.fields


def read_tokenizer(file: Path, reader: GGUFReader) -> Any:
    """transformers' tokenizer of the file; CheckpointError for one that is not whole or known."""
    if not {"tokenizer.ggml.scores", "tokenizer.ggml.merges"} & reader.fields.keys():
        raise CheckpointError(
            f"{file}: its tokenizer has neither tokenizer.ggml.scores nor tokenizer.ggml.merges, "
            "so no text can be cut into its tokens; get the file again"
        )
    from transformers import AutoTokenizer

    try:
        with quietly():
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except Exception as error:  # whatever a converter raises
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"{file}: its tokenizer cannot be read ({type(error).__name__}: {reason})"
        ) from error
    add_space = reader.fields.get("tokenizer.ggml.add_space_prefix")
    if add_space is not None and not add_space.contents():
        tokenizer._tokenizer = without_first_space(tokenizer.backend_tokenizer)
    return tokenizer


def without_first_space(raw: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """SentencePiece's with add_dummy_prefix off: transformers' converter does not look."""
    data = json.loads(raw.to_str())
    for key, parts in (("normalizer", "normalizers"), ("decoder", "decoders")):
        step = data[key]
        if step is not None and step["type"] == "Sequence":
            step[parts] = [part for part in step[parts] if part["type"] not in PREFIXES]
    for step in _steps(data["pre_tokenizer"], "pretokenizers"):
        if step["type"] == "Metaspace":
            step["prepend_scheme"] = "never"
    return tokenizers.Tokenizer.from_str(json.dumps(data))


def _steps(step: dict[str, Any] | None, parts: str) -> list[dict[str, Any]]:
    if step is None:
        return []
    steps: list[dict[str, Any]] = step[parts] if step["type"] == "Sequence" else [step]
    return steps
