"""The text side of an engine: written, and tried with what `run` will do, before any long work."""

import warnings
from pathlib import Path

import tokenizers

from builders.checkpoints import Checkpoint
from river_trt.errors import CheckpointError, RiverError, RiverWarning
from river_trt.manifest import TextInfo
from river_trt.text import TOKENIZER_FILE, ChatOptions, Tokenizer
from river_trt.text.template import DEFAULT, MORE_TEMPLATES, template_file

HELLO = [{"role": "user", "content": "Hello"}]


def write_text(checkpoint: Checkpoint, directory: Path) -> bool:
    """Write the checkpoint's tokenizer and templates; False if it has none.

    Raises CheckpointError for a tokenizer that cannot be loaded and a template that cannot be
    compiled. A template that refuses a plain question is warned of: it may want more than that.
    """
    if not checkpoint.write_tokenizer(directory):
        return False
    tokenizer = open_tokenizer(directory, checkpoint.text_info())
    if tokenizer.has_chat_template:
        _try_template(tokenizer, checkpoint.name)
    return True


def open_tokenizer(directory: Path, info: TextInfo) -> Tokenizer:
    """What is written there, as the runtime will see it; CheckpointError if it is none."""
    try:
        raw = tokenizers.Tokenizer.from_file(str(directory / TOKENIZER_FILE))
    except Exception as error:  # the library raises Exception itself
        raise CheckpointError(
            f"the checkpoint's {TOKENIZER_FILE} cannot be loaded ({error}); mend it, or remove it "
            "for an engine that takes token ids only"
        ) from error
    files = {DEFAULT: directory / template_file(DEFAULT)}
    for file in directory.glob(f"{MORE_TEMPLATES}/*.jinja"):
        files[file.name.removesuffix(".jinja")] = file
    sources = {name: file.read_bytes() for name, file in files.items() if file.is_file()}
    return Tokenizer(raw, sources, info.special_tokens)


def special_token_ids(directory: Path, info: TextInfo) -> dict[str, int]:
    """Ids of the special tokens that the tokenizer names ("bos_token") and has."""
    raw = open_tokenizer(directory, info).raw
    ids = {name: raw.token_to_id(token) for name, token in info.special_tokens.items()}
    return {name: token_id for name, token_id in ids.items() if token_id is not None}


def _try_template(tokenizer: Tokenizer, model: str) -> None:
    for name in tokenizer.chat_templates:
        try:
            tokenizer.chat_templates.choose(ChatOptions(template=name)).compile()
        except RiverError as error:
            raise CheckpointError(f"{model}, template {name!r}: {error}") from error
    try:
        tokenizer.chat_prompt(HELLO)
    except RiverError as error:
        warnings.warn(
            f"a chat with {model} will not work as it is: {error}", RiverWarning, stacklevel=2
        )
