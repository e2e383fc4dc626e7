"""Token ids for the quantisers that look at activations."""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from river_trt.errors import RiverError

TEXTS, TOKENS = 16, 256


def calibration_tokens(directory: Path, text_file: Path | None) -> Tensor:
    """int64 [texts, tokens] from a text file, cut into equal pieces.

    `directory` holds the tokenizer. Raises RiverError for a model without one, a file that cannot
    be read, or too little text.
    """
    if text_file is None:
        raise RiverError("this quantiser needs --calibration-text FILE: text like the model's use")
    tokenizer_file = directory / "tokenizer.json"
    if not tokenizer_file.is_file():
        raise RiverError("the model has no tokenizer, so it cannot read a calibration text")
    try:
        text = text_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RiverError(f"calibration text {text_file} cannot be read: {error}") from error
    ids = Tokenizer.from_file(str(tokenizer_file)).encode(text).ids
    if len(ids) < TOKENS:
        raise RiverError(
            f"calibration text {text_file} has {len(ids)} tokens; at least {TOKENS} are needed"
        )
    pieces = torch.tensor(ids[: len(ids) // TOKENS * TOKENS]).view(-1, TOKENS)
    return pieces[:: max(1, len(pieces) // TEXTS)][:TEXTS]
