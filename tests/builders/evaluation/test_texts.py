import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from builders.evaluation.texts import cut_pieces, read_documents, read_records
from river_trt.errors import RiverError
from river_trt.text import Tokenizer

BOS = 100


def word_tokenizer(with_bos: bool = False) -> Tokenizer:
    words = {f"w{n}": n for n in range(100)} | {"<s>": BOS, "?": 101}
    raw = tokenizers.Tokenizer(models.WordLevel(words, unk_token="?"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if with_bos:
        raw.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", BOS)]
        )
    return Tokenizer(raw)


def words(count: int, start: int = 0) -> str:
    return " ".join(f"w{n % 100}" for n in range(start, start + count))


def write(path: Path, *records: object) -> Path:
    path.write_text("\n".join(json.dumps(record) for record in records))
    return path


def test_a_text_is_one_document(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo")
    assert read_documents(tmp_path / "a.txt") == ["one\n\ntwo"]


def test_each_record_is_a_document(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one", "id": 1}\n\n{"text": "two"}\n')
    assert read_documents(path) == ["one", "two"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a.jsonl holds no record"),
        (b"\n \n", "a.jsonl holds no record"),
        (
            b'{"text": "a"}\n{"question": "q", "answer": 1}',
            "line 2 has no field 'text'; its fields: question, answer",
        ),
        (b"{}", "line 1 has no field 'text'; its fields: none"),
        (b'{"text": 5}', "line 1: field 'text' must be a str, got 5"),
        (b"[1]", "line 1 must be a JSON object, got [1]"),
        (b'{"text": "a"', "line 1 is not JSON"),
        (b'{"text": "\xe4"}', "a.jsonl is not UTF-8 text (byte 10)"),
    ],
)
def test_bad_records(tmp_path, content, message):
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(RiverError) as error:
        read_documents(tmp_path / "a.jsonl")
    assert message in str(error.value)


@pytest.mark.parametrize("content", [b"", b" \n"])
def test_empty_text(tmp_path, content):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(RiverError, match=r"a.txt is empty; give it some text"):
        read_documents(tmp_path / "a.txt")


def test_missing_file_and_latin_1(tmp_path):
    with pytest.raises(RiverError, match=r"b.txt cannot be read: No such file"):
        read_documents(tmp_path / "b.txt")
    (tmp_path / "a.txt").write_bytes("für".encode("latin-1"))
    with pytest.raises(RiverError, match=r"a.txt is not UTF-8 text \(byte 1\)"):
        read_documents(tmp_path / "a.txt")


def test_other_fields_are_checked_too(tmp_path):
    path = write(tmp_path / "a.jsonl", {"question": "q", "answer": ["4"]})
    with pytest.raises(RiverError, match=r"field 'answer' must be a str, got \[\"4\"\]"):
        read_records(path, {"question": str, "answer": str})


def test_pieces_cover_the_text_and_keep_a_scorable_rest():
    pieces = cut_pieces([words(25)], word_tokenizer(), 10, 2, 99, Path("a"))
    assert [piece.tolist() for piece in pieces] == [
        [*range(10)],
        [*range(10, 20)],
        [*range(20, 25)],
    ]
    assert all(piece.dtype == np.int64 for piece in pieces)
    pieces = cut_pieces([words(23)], word_tokenizer(), 10, 2, 99, Path("a"))
    assert [len(piece) for piece in pieces] == [10, 10]  # 3 tokens score nothing after 2


def test_every_piece_begins_as_the_model_begins_a_text():
    pieces = cut_pieces([words(18)], word_tokenizer(with_bos=True), 10, 2, 99, Path("a"))
    assert [piece.tolist() for piece in pieces] == [[BOS, *range(9)], [BOS, *range(9, 18)]]


def test_pieces_are_spread_over_the_documents():
    documents = [words(10, start) for start in range(0, 90, 10)]
    pieces = cut_pieces(documents, word_tokenizer(), 10, 2, 3, Path("a"))
    assert [piece[0] for piece in pieces] == [0, 40, 80]


def test_too_short():
    with pytest.raises(RiverError, match="a is too short: its longest text has 5 tokens; 34 are"):
        cut_pieces([words(5), words(3)], word_tokenizer(), 256, 32, 9, Path("a"))
    with pytest.raises(RiverError, match="pieces of 33 tokens leave nothing to score"):
        cut_pieces([words(50)], word_tokenizer(), 33, 32, 9, Path("a"))
