"""The text to evaluate on: plain UTF-8, or JSONL with a field `text`, cut into pieces of tokens."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from river_trt.errors import RiverError
from river_trt.text import Tokenizer

JSONL = (".jsonl", ".ndjson")


def read_documents(path: Path) -> list[str]:
    """One document of a text file, one a record of a JSONL file.

    Raises RiverError for a file that cannot be read, is not UTF-8, is empty, or has a record
    without a string in `text`.
    """
    if path.suffix in JSONL:
        return [record["text"] for record in read_records(path, {"text": str})]
    content = read_utf8(path)
    if not content.strip():
        raise RiverError(f"{path} is empty; give it some text")
    return [content]


def read_records(path: Path, fields: Mapping[str, type]) -> list[dict[str, Any]]:
    """The records of a JSONL file, each an object with these fields, blank lines left out.

    Other fields are allowed. Raises RiverError that names the line, the field and what was found.
    """
    records = []
    for number, line in enumerate(read_utf8(path).splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            raise RiverError(f"{where} is not JSON ({error})") from error
        if not isinstance(record, dict):
            raise RiverError(f"{where} must be a JSON object, got {line:.40}")
        for field, kind in fields.items():
            if field not in record:
                found = ", ".join(record) or "none"
                raise RiverError(f"{where} has no field {field!r}; its fields: {found}")
            if not isinstance(record[field], kind):
                raise RiverError(
                    f"{where}: field {field!r} must be a {kind.__name__}, "
                    f"got {json.dumps(record[field]):.40}"
                )
        records.append(record)
    if not records:
        raise RiverError(f"{path} holds no record")
    return records


def read_utf8(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise RiverError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RiverError(f"{path} is not UTF-8 text (byte {error.start})") from error


def cut_pieces(
    documents: Sequence[str],
    tokenizer: Tokenizer,
    length: int,  # tokens of a piece, the beginning-of-sequence token included
    skip: int,  # first positions of a piece, which are not scored
    count: int,  # pieces at most, spread evenly over all there are
    source: Path,  # for the error
) -> list[np.ndarray]:
    """Pieces int64 [length or fewer], each begun as the model begins a text.

    The rest of a document is a piece too if it has a position to score. Raises RiverError when
    nothing is long enough.
    """
    check_length(length, skip)
    start = tokenizer.encode("")  # what the model wants before a text: often one token, or none
    body = length - len(start)
    pieces, longest = [], 0
    for document in documents:
        ids = tokenizer.encode(document, add_special_tokens=False)
        longest = max(longest, len(ids))
        for at in range(0, len(ids), body):
            piece = [*start, *ids[at : at + body]]
            if len(piece) >= skip + 2:
                pieces.append(np.array(piece, np.int64))
    if not pieces:
        raise RiverError(
            f"{source} is too short: its longest text has {longest} tokens; "
            f"{skip + 2 - len(start)} are needed"
        )
    chosen = np.linspace(0, len(pieces) - 1, min(count, len(pieces))).astype(int)
    return [pieces[index] for index in chosen]


def check_length(length: int, skip: int) -> None:
    """A position is scored by the token after it."""
    if length < skip + 2:
        raise RiverError(
            f"pieces of {length} tokens leave nothing to score after the first {skip}; "
            f"take {skip + 2} tokens or more"
        )
