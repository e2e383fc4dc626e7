"""The text that `build` calibrates on: it comes with river-trt (builders/data/texts)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from builders.evaluation.texts import cut_pieces, read_documents
from river_trt.text import Tokenizer

FOLDER = Path(__file__).parent.parent / "data" / "texts"
KINDS = ("prose", "chat", "code", "mathematics", "manual")
PIECE_TOKENS, SKIP = 192, 16  # of a piece, and of its first positions that are not scored
PIECES_OF_A_KIND = 4  # of the search, and as many that are held out


def file_of(kind: str) -> Path:
    return FOLDER / f"{kind}.txt"


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """Pieces to search on, and held-out ones of the same kinds."""

    search: list[np.ndarray]
    report: list[np.ndarray]
    kinds: tuple[str, ...]  # of the pieces of `search`

    @classmethod
    def read(cls, tokenizer: Tokenizer, max_seq_len: int) -> "Texts":
        """Pieces of every kind, by turns for one part and for the other."""
        search, report, kinds = [], [], []
        for kind in KINDS:
            file = file_of(kind)
            documents, length = read_documents(file), min(PIECE_TOKENS, max_seq_len)
            pieces = cut_pieces(documents, tokenizer, length, SKIP, 2 * PIECES_OF_A_KIND, file)
            search += pieces[::2]
            report += pieces[1::2]
            kinds += [kind] * len(pieces[::2])
        return cls(search, report, tuple(kinds))
