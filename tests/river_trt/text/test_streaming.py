"""What streams is what `decode` says of all ids: for every kind of decoder and any ids."""

import os

import numpy as np
import pytest

from river_trt.text import TextStream, Tokenizer
from tests.river_trt.text.kinds import KINDS, byte_level, gemma, llama2, metaspace

SEQUENCES = 2000
CHARACTERS = "aé\u0422你🦊\ufffd ▁\n"


def streamed(tokenizer, prompt, ids):
    stream = TextStream(tokenizer, (), prompt)
    return [*(stream.push(token) for token in ids), stream.flush()], stream


def continuation(tokenizer, prompt, ids):
    """What the whole decodes to, less what the prompt's text has of it."""
    whole = tokenizer.raw.decode([*prompt, *ids])
    before = tokenizer.raw.decode(prompt)
    return whole[len(os.path.commonprefix([whole, before])) :]  # noqa: RUF071  (no paths)


def random_ids(rng, raw, most):
    """Any ids: runs of one token, whole characters as bytes, bytes in any order, and the rest."""
    by_name = raw.get_vocab()
    size = raw.get_vocab_size()
    ids = []
    length = rng.integers(0, most)
    while len(ids) < length:
        kind = rng.integers(5)
        if kind == 0:
            ids += [int(rng.integers(size))] * int(rng.integers(1, 9))
        elif kind == 1 and "<0x41>" in by_name:
            character = str(rng.choice(list(CHARACTERS))).encode()
            ids += [by_name[f"<0x{byte:02X}>"] for byte in character]
        elif kind == 2:
            ids += rng.integers(0, min(256, size), int(rng.integers(1, 6))).tolist()
        elif kind == 3:
            ids.append(size + int(rng.integers(50)))  # the model's vocabulary is padded
        else:
            ids.append(int(rng.integers(size)))
    return ids[:length]


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_join_to_what_all_ids_decode_to(kind):
    raw = KINDS[kind]()
    tokenizer = Tokenizer(raw)
    rng = np.random.default_rng(len(kind))
    for _ in range(SEQUENCES):
        prompt, ids = random_ids(rng, raw, 12), random_ids(rng, raw, 40)
        out, stream = streamed(tokenizer, prompt, ids)
        assert "".join(out) == stream.text == continuation(tokenizer, prompt, ids), (prompt, ids)
        out, _ = streamed(tokenizer, (), ids)
        assert "".join(out) == raw.decode(ids), ids


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_text_is_decoded_a_window_at_a_time(kind):
    """Each step decodes a bounded number of ids; a run of bytes as a whole, once."""
    raw = KINDS[kind]()
    tokenizer = Tokenizer(raw)
    ids = random_ids(np.random.default_rng(0), raw, 3000)
    decoded = []
    decode = tokenizer.decode
    tokenizer.decode = lambda ids: decoded.append(len(ids)) or decode(ids)
    out, _ = streamed(tokenizer, ids[:1000], ids[1000:])
    assert "".join(out) == continuation(tokenizer, ids[:1000], ids[1000:])
    assert sum(decoded) <= 20 * len(ids)


def ids_of(raw, *tokens):
    ids = [raw.token_to_id(token) for token in tokens]
    assert None not in ids
    return ids


def test_bytes_that_are_no_character_do_not_raise():
    raw = llama2()
    out, _ = streamed(Tokenizer(raw), (), ids_of(raw, "<0xD0>", "<0xA2>", "<0xD0>", "▁return"))
    assert out == ["", "", "", "\ufffd\ufffd\ufffd return", ""]


def test_characters_of_a_run_of_bytes_come_with_what_ends_it():
    raw = gemma()
    run = ids_of(raw, *(f"<0x{byte:02X}>" for byte in "你🦊".encode()))
    out, _ = streamed(Tokenizer(raw), (), [*run, *ids_of(raw, "a")])
    assert out == [""] * 7 + ["你🦊a", ""]
    assert streamed(Tokenizer(raw), (), run)[0] == [""] * 7 + ["你🦊"]


def test_indentation_after_the_prompt_stays():
    """Fault of old: the first new token lost the space that a text's first token may lose."""
    raw = llama2()
    tokenizer = Tokenizer(raw)
    prompt = ids_of(raw, "▁the", "\n")
    out, stream = streamed(tokenizer, prompt, ids_of(raw, "▁▁▁▁", "▁return"))
    assert "".join(out) == "     return"
    stream = TextStream(tokenizer, [" return"], ids_of(raw, "a"))
    assert stream.push(*ids_of(raw, "▁return")) == "" and stream.stopped


@pytest.mark.parametrize("make", [llama2, metaspace])
def test_without_text_before_it_the_first_space_is_dropped(make):
    raw = make()
    out, _ = streamed(Tokenizer(raw), ids_of(raw, "<s>"), ids_of(raw, "▁the", "▁a"))
    assert out == ["the", " a", ""]


def test_a_character_begun_in_the_prompt_is_the_continuations():
    raw = byte_level()
    tokenizer = Tokenizer(raw)
    fox = tokenizer.encode("🦊", add_special_tokens=False)
    for cut in range(1, len(fox)):
        prompt = [*tokenizer.encode("a"), *fox[:cut]]
        assert streamed(tokenizer, prompt, fox[cut:])[0][-2:] == ["🦊", ""]


@pytest.mark.parametrize(
    ("make", "token"), [(byte_level, "ï¿½"), (llama2, "\ufffd"), (metaspace, "\ufffd")]
)
def test_a_replacement_character_at_the_end_stays(make, token):
    raw = make()
    assert streamed(Tokenizer(raw), (), ids_of(raw, "a", token, token))[0][-1] == "\ufffd"


def test_a_stop_string_of_special_tokens_stops_at_the_token():
    raw = byte_level()
    tokenizer = Tokenizer(raw)
    stream = TextStream(tokenizer, ["<|im_end|>"], ())
    stop = raw.token_to_id("<|im_end|>")
    assert stream.push(*ids_of(raw, "a")) == "a"
    assert stream.push(stop) == "" and stream.stopped and stream.flush() == ""
    stream = TextStream(tokenizer, ["a<|im_end|>b"], ())
    pushed = [stream.push(token) for token in ids_of(raw, "x", "a", "<s>", "<|im_end|>", "b")]
    assert pushed == ["x", "", "", "", ""] and stream.stopped
    stream = TextStream(tokenizer, ["ab", "</s>"], ())  # others are no text between characters
    pushed = [stream.push(token) for token in ids_of(raw, "a", "<|im_end|>", "b")]
    assert stream.stopped and stream.text == ""


def test_bytes_before_a_special_token_that_stops():
    raw = byte_level()
    stream = TextStream(Tokenizer(raw), ["</s>"], ())
    pushed = [stream.push(token) for token in ids_of(raw, "a", "Ã", "</s>")]  # half of é
    assert pushed == ["a", "", "\ufffd"] and stream.stopped


@pytest.mark.parametrize("kind", KINDS)
def test_runs_of_bytes_are_known_by_the_decoder(kind):
    assert Tokenizer(KINDS[kind]()).has_byte_tokens == kind.startswith("byte fallback")
