"""Tokenizers in GGUF files: what transformers' converter leaves out, and what is no tokenizer."""

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
from transformers import LlamaTokenizer

from builders.checkpoints.gguf_tokenizer import read_tokenizer
from river_trt.errors import CheckpointError

NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
PIECES = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)]
PIECES += [(f"<0x{byte:02X}>", BYTE) for byte in range(256)]
PIECES += [(word, NORMAL) for word in ("▁", "h", "e", "l", "o", "he", "ll", "hell", "hello")]
PIECES += [("▁hello", NORMAL), ("t", NORMAL), ("▁t", NORMAL)]
TEXTS = ["hello", " hello", "hello t", "  t", "", "é", "t hello"]


def write(file: Path, model: str = "llama", scores: bool = True, **flags: bool) -> gguf.GGUFReader:
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_tokenizer_model(model)
    writer.add_token_list([piece for piece, _ in PIECES])
    if scores:
        writer.add_token_scores([-float(rank) for rank in range(len(PIECES))])
    writer.add_token_types([kind for _, kind in PIECES])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name, value in flags.items():
        writer.add_bool(f"tokenizer.ggml.{name}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return gguf.GGUFReader(file)


@pytest.mark.parametrize("flag", [{}, {"add_space_prefix": True}, {"add_space_prefix": False}])
def test_first_space_is_the_files(flag: dict[str, bool], tmp_path: Path) -> None:
    """As transformers' own class cuts and joins with add_prefix_space of that value."""
    read = read_tokenizer(tmp_path / "t.gguf", write(tmp_path / "t.gguf", **flag))
    vocab = {piece: index for index, (piece, _) in enumerate(PIECES)}
    model = json.loads(read.backend_tokenizer.to_str())["model"]
    pairs: Any = [tuple(pair) for pair in model["merges"]]
    with_prefix = flag.get("add_space_prefix", True)
    their = LlamaTokenizer(vocab=vocab, merges=pairs, add_prefix_space=with_prefix)
    for text in TEXTS:
        ids = read.backend_tokenizer.encode(text, add_special_tokens=False).ids
        assert ids == their.encode(text, add_special_tokens=False), text
        assert read.backend_tokenizer.decode(ids) == their.decode(ids), text


def test_a_vocabulary_without_scores_or_merges(tmp_path: Path) -> None:
    reader = write(tmp_path / "t.gguf", scores=False)
    with pytest.raises(CheckpointError, match=r"neither tokenizer\.ggml\.scores nor tokenizer"):
        read_tokenizer(tmp_path / "t.gguf", reader)


def test_a_tokenizer_that_transformers_does_not_know(tmp_path: Path) -> None:
    reader = write(tmp_path / "t.gguf", "quipu")
    with pytest.raises(CheckpointError, match=r"cannot be read.*'quipu'\. Supported: ") as caught:
        read_tokenizer(tmp_path / "t.gguf", reader)
    assert "\n" not in str(caught.value)
