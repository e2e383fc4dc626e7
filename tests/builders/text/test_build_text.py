"""What a build makes of a model's text side, and what it refuses before any long work."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers

import river_trt
from builders.build import BuildOptions, build
from builders.checkpoints import open_checkpoint
from builders.text import write_text
from river_trt.errors import CheckpointError, RiverWarning
from river_trt.manifest import Manifest, SamplingInfo
from tests.builders.text.saved import save, template
from tests.builders.tiny_llama import save_tiny_llama
from tests.river_trt.text.kinds import byte_level

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tiny Llama with a tokenizer; config.json names 2 as its end."""
    raw = byte_level()
    vocab_size = raw.get_vocab_size()
    save_tiny_llama(
        tmp_path / "model",
        vocab_size=vocab_size,
        num_hidden_layers=1,
        hidden_size=64,
        max_position_embeddings=512,
    )
    return save(tmp_path / "model", raw, eos_token="<|im_end|>", bos_token=None)


def change(file: Path, **values: Any) -> None:
    known = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(known | values))


def built(model: Path) -> tuple[river_trt.Engine, Manifest]:
    manifest = build(BuildOptions(str(model), model.parent / "engine", calibrate=False))
    return river_trt.load(model.parent / "engine"), manifest


def test_a_generation_template_and_special_tokens_reach_the_engine(model: Path) -> None:
    change(model / "tokenizer_config.json", chat_template=template("smollm3"))
    engine, manifest = built(model)
    assert engine.tokenizer is not None
    assert "Reasoning Mode: /think" in engine.tokenizer.chat_text(HELLO)
    assert manifest.text.special_tokens == {"eos_token": "<|im_end|>"}
    assert engine.generate(engine.chat_prompt(HELLO))


def test_a_text_ends_where_any_file_says(model: Path) -> None:
    change(model / "config.json", eos_token_id=[1, 2], bos_token_id=None)
    change(model / "generation_config.json", eos_token_id=5)
    end = byte_level().token_to_id("<|im_end|>")
    _, manifest = built(model)
    assert manifest.model.eos_token_ids == (5, 1, 2, end)
    assert manifest.model.bos_token_id is None  # null in tokenizer_config.json and config.json


def test_named_templates_are_files_of_the_engine(model: Path) -> None:
    change(model / "tokenizer_config.json", chat_template={"default": "a", "rag": "b"})
    engine, manifest = built(model)
    assert {"chat_template.jinja", "additional_chat_templates/rag.jinja"} <= set(manifest.files)
    assert engine.tokenizer is not None
    assert engine.tokenizer.chat_text(HELLO, river_trt.ChatOptions(template="rag")) == "b"


def test_the_publishers_sampling(model: Path) -> None:
    change(model / "generation_config.json", do_sample=True, temperature=0.6, top_p=0.9, top_k=20)
    text = open_checkpoint(str(model)).text_info()
    assert text.sampling == SamplingInfo(temperature=0.6, top_p=0.9, top_k=20)
    change(model / "generation_config.json", do_sample=False, repetition_penalty=1.05)
    text = open_checkpoint(str(model)).text_info()
    assert text.sampling == SamplingInfo(0.0, 20, 0.9, None, 1.05)
    change(model / "generation_config.json", top_p=3)
    with pytest.raises(CheckpointError, match=r"generation_config.json: top_p must be"):
        open_checkpoint(str(model)).text_info()


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda m: (m / "tokenizer.json").write_text("{}"), "tokenizer.json cannot be loaded"),
        (lambda m: (m / "tokenizer.json").write_bytes(b"\xff"), "tokenizer.json cannot be loaded"),
        (lambda m: (m / "chat_template.jinja").write_text("{% if %}"), "is no valid one"),
        (lambda m: (m / "chat_template.jinja").write_bytes(b"\xff"), "is not UTF-8"),
        (
            lambda m: change(m / "tokenizer_config.json", chat_template=3),
            "chat_template must be a text, or several by name",
        ),
        (
            lambda m: change(m / "tokenizer_config.json", chat_template=[{"name": "default"}]),
            "not of objects with a name and a template",
        ),
        (
            lambda m: change(m / "tokenizer_config.json", chat_template={"../x": "y"}),
            r"the chat template '\.\./x' has no name",
        ),
        (lambda m: change(m / "tokenizer_config.json", bos_token=3), "bos_token must be a string"),
    ],
)
def test_what_cannot_run_is_refused_in_one_sentence(
    break_it: Any, message: str, model: Path
) -> None:
    break_it(model)
    with pytest.raises(CheckpointError, match=message) as caught:
        build(BuildOptions(str(model), model.parent / "engine", calibrate=False))
    assert "\n" not in str(caught.value) and not (model.parent / "engine").exists()


def test_a_template_that_wants_more_than_a_question_is_warned_of(model: Path) -> None:
    (model / "chat_template.jinja").write_text("{{ raise_exception('no system message') }}")
    (model.parent / "out").mkdir()
    with pytest.warns(RiverWarning, match="will not work as it is.*no system message"):
        assert write_text(open_checkpoint(str(model)), model.parent / "out")


def test_a_sentencepiece_model_alone_is_converted_as_transformers_does(
    model: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    (model / "tokenizer.json").unlink()
    (model / "tokenizer.model").write_bytes(sentencepiece_model())
    change(model / "tokenizer_config.json", tokenizer_class="LlamaTokenizer", eos_token="</s>")
    out = tmp_path / "out"
    out.mkdir()
    assert write_text(open_checkpoint(str(model)), out)
    raw = tokenizers.Tokenizer.from_file(str(out / "tokenizer.json"))
    their = AutoTokenizer.from_pretrained(model)
    for text in ("Hello hello", "  two", "é🦊", ""):
        assert raw.encode(text).ids == their(text)["input_ids"]
        assert raw.decode(raw.encode(text).ids) == their.decode(
            their(text)["input_ids"], skip_special_tokens=True
        )
    (model / "tokenizer.model").write_bytes(b"no model")
    with pytest.raises(CheckpointError, match=r"tokenizer\.model cannot be converted"):
        write_text(open_checkpoint(str(model)), out)


def sentencepiece_model() -> bytes:
    """Llama 2's kind: BPE with bytes for what it lacks."""
    from sentencepiece import sentencepiece_model_pb2 as pb2

    proto = pb2.ModelProto()
    kinds = pb2.ModelProto.SentencePiece
    pieces = [("<unk>", kinds.UNKNOWN), ("<s>", kinds.CONTROL), ("</s>", kinds.CONTROL)]
    pieces += [(f"<0x{byte:02X}>", kinds.BYTE) for byte in range(256)]
    words = ["▁", "h", "H", "e", "l", "o", "he", "ll", "hell", "hello", "▁hello", "t", "w"]
    pieces += [(word, kinds.NORMAL) for word in words]
    for rank, (piece, kind) in enumerate(pieces):
        proto.pieces.add(piece=piece, score=-float(rank), type=kind)
    proto.trainer_spec.model_type = pb2.TrainerSpec.BPE
    proto.trainer_spec.byte_fallback = True
    proto.normalizer_spec.add_dummy_prefix = True
    serialised: bytes = proto.SerializeToString()
    return serialised
