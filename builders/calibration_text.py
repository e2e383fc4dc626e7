"""Token ids for the quantisers that look at activations."""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

import river_trt.text
from builders.calibration.texts import KINDS, PIECE_TOKENS, SKIP, Texts, file_of
from builders.evaluation.texts import cut_pieces, read_documents
from builders.families import ModelConfig
from river_trt.errors import RiverError

TEXTS, TOKENS = 8, 128
TUNING_TEXTS = 100  # pieces of PIECE_TOKENS, for what tunes the river
OWN_TEXT = "what the model wrote itself from beginnings of it"
BUILT_IN = Path(__file__).with_name("data") / "calibration.txt"


@dataclass(frozen=True, slots=True, eq=False)
class CalibrationText:
    token_ids: Tensor  # int64 [texts, tokens]
    source: str  # for people: where the ids come from


def read_calibration(
    tokenizer_file: Path, config: ModelConfig, text: Path | None, tuning: bool = False
) -> CalibrationText:
    """Pieces of `text`, or of the text that comes with river-trt, spread over its length.

    tuning: more of them, and longer; of the built-in texts those that no policy is chosen or
    measured on.
    A model without a tokenizer is given token ids drawn at random. Raises RiverError for a text
    that cannot be read, is too short, or cannot be tokenised.
    """
    count, tokens_each = (TUNING_TEXTS, PIECE_TOKENS) if tuning else (TEXTS, TOKENS)
    length = min(tokens_each, config.max_position_embeddings)
    if not tokenizer_file.is_file():
        if text is not None:
            raise RiverError("the model has no tokenizer, so it cannot read a calibration text")
        seeded = torch.Generator().manual_seed(0)
        ids = torch.randint(config.vocab_size, (count, length), generator=seeded)
        return CalibrationText(ids, "random token ids (the model has no tokenizer)")
    if tuning and text is None:
        tokenizer = river_trt.text.Tokenizer(Tokenizer.from_file(str(tokenizer_file)))
        pieces = tuning_pieces(tokenizer, length)
        return CalibrationText(pieces, f"the built-in texts, and {OWN_TEXT}")
    try:
        content = (text or BUILT_IN).read_text(encoding="utf-8")
    except OSError as error:
        raise RiverError(f"calibration text {text} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RiverError(f"calibration text {text} is not UTF-8 text") from error
    tokens = Tokenizer.from_file(str(tokenizer_file)).encode(content).ids
    if len(tokens) < length:
        raise RiverError(f"calibration text {text} has {len(tokens)} tokens; {length} are needed")
    source = "the built-in text" if text is None else text.name
    if tuning:
        source += f", and {OWN_TEXT}"
    return CalibrationText(spread_pieces(tokens, count, length), source)


def tuning_pieces(tokenizer: river_trt.text.Tokenizer, length: int) -> Tensor:
    """int64 [TUNING_TEXTS, length]: pieces of all kinds by turns, those of Texts left out.

    A kind that has too few gives them again.
    """
    texts = Texts.read(tokenizer, length)
    taken = {piece.tobytes() for piece in (*texts.search, *texts.report)}
    kinds = []
    for kind in KINDS:
        file = file_of(kind)
        every = cut_pieces(read_documents(file), tokenizer, length, SKIP, sys.maxsize, file)
        left = [p for p in every if len(p) == length and p.tobytes() not in taken]
        each = TUNING_TEXTS // len(KINDS)
        chosen = np.linspace(0, len(left) - 1, each) if len(left) > each else np.arange(each)
        kinds.append([left[int(index) % len(left)] for index in chosen])
    by_turns = [piece for turn in zip(*kinds, strict=True) for piece in turn]
    return torch.from_numpy(np.stack(by_turns))


def spread_pieces(tokens: list[int], count: int, length: int) -> Tensor:
    """int64 [count or fewer, length]: pieces of a text, evenly spread from its first to its last.

    The text must hold one piece at least.
    """
    pieces = torch.tensor(tokens[: len(tokens) // length * length]).view(-1, length)
    return pieces[torch.linspace(0, len(pieces) - 1, min(count, len(pieces))).long()]
