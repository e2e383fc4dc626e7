"""Token ids for the quantisers that look at activations."""

from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from builders.families import ModelConfig
from river_trt.errors import RiverError

TEXTS, TOKENS = 8, 128
BUILT_IN = Path(__file__).with_name("data") / "calibration.txt"


@dataclass(frozen=True, slots=True, eq=False)
class CalibrationText:
    token_ids: Tensor  # int64 [texts, tokens]
    source: str  # for people: where the ids come from


def read_calibration(
    tokenizer_file: Path, config: ModelConfig, text: Path | None
) -> CalibrationText:
    """Pieces of `text`, or of the text that comes with river-trt, spread over its length.

    A model without a tokenizer is given token ids drawn at random. Raises RiverError for a text
    that cannot be read, is too short, or cannot be tokenised.
    """
    if not tokenizer_file.is_file():
        if text is not None:
            raise RiverError("the model has no tokenizer, so it cannot read a calibration text")
        seeded = torch.Generator().manual_seed(0)
        ids = torch.randint(config.vocab_size, (TEXTS, TOKENS), generator=seeded)
        return CalibrationText(ids, "random token ids (the model has no tokenizer)")
    try:
        content = (text or BUILT_IN).read_text(encoding="utf-8")
    except OSError as error:
        raise RiverError(f"calibration text {text} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RiverError(f"calibration text {text} is not UTF-8 text") from error
    tokens = Tokenizer.from_file(str(tokenizer_file)).encode(content).ids
    length = min(TOKENS, config.max_position_embeddings)
    if len(tokens) < length:
        raise RiverError(f"calibration text {text} has {len(tokens)} tokens; {length} are needed")
    source = "the built-in text" if text is None else text.name
    return CalibrationText(spread_pieces(tokens, TEXTS, length), source)


def spread_pieces(tokens: list[int], count: int, length: int) -> Tensor:
    """int64 [count or fewer, length]: pieces of a text, evenly spread from its first to its last.

    The text must hold one piece at least.
    """
    pieces = torch.tensor(tokens[: len(tokens) // length * length]).view(-1, length)
    return pieces[torch.linspace(0, len(pieces) - 1, min(count, len(pieces))).long()]
