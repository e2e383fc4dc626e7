import pytest
from tokenizers.processors import TemplateProcessing

from river_trt import RiverError
from river_trt.errors import PromptError
from river_trt.text import TextStream, Tokenizer
from tests.river_trt.text import kinds


def pieces(raw_tokenizer, text, stop=()):
    """What a stream emits for each token of the text, and the stream after its flush."""
    tokenizer = Tokenizer(raw_tokenizer)
    stream = TextStream(tokenizer, stop)
    out = []
    for token in tokenizer.encode(text):
        out.append(stream.push(token))
        if stream.stopped:
            break
    out.append(stream.flush())
    return out, stream


def test_broken_utf8_is_never_emitted(raw_tokenizer):
    text = "naïve 🦊 漢字"
    out, stream = pieces(raw_tokenizer, text)
    assert len(out) == len(text.encode()) + 1
    assert all("�" not in piece for piece in out)
    assert "".join(out) == stream.text == text


def test_half_a_character_at_the_end_is_what_decode_makes_of_it(raw_tokenizer):
    tokenizer = Tokenizer(raw_tokenizer)
    stream = TextStream(tokenizer)
    for token in tokenizer.encode("ab🦊")[:-1]:
        stream.push(token)
    stream.flush()
    assert stream.text == "ab\ufffd"


def test_stop_string_across_token_boundary(raw_tokenizer):
    out, stream = pieces(raw_tokenizer, "one STOP two", ["STOP"])
    assert stream.stopped
    assert "".join(out) == stream.text == "one "
    assert len(out) == len("one STOP") + 1  # stopped with the token that completed it


def test_held_back_text_comes_when_it_is_no_stop_string(raw_tokenizer):
    out, _ = pieces(raw_tokenizer, "STOx", ["STOP"])
    assert out == ["", "", "", "STOx", ""]
    out, _ = pieces(raw_tokenizer, "xST", ["STOP"])
    assert out == ["x", "", "", "ST"]


def test_overlapping_beginnings_of_a_stop_string(raw_tokenizer):
    # After "aa" and another "a" the stop string may begin one character later.
    _, stream = pieces(raw_tokenizer, "aaab!", ["aab"])
    assert stream.stopped and stream.text == "a"


def test_earliest_of_several_stop_strings_cuts(raw_tokenizer):
    _, stream = pieces(raw_tokenizer, "abcd", ["zzz", "cd", "bcd"])
    assert stream.text == "a"
    _, stream = pieces(raw_tokenizer, "é🦊!", ["🦊"])
    assert stream.text == "é"


def test_special_tokens_are_no_text(raw_tokenizer):
    tokenizer = Tokenizer(raw_tokenizer)
    stream = TextStream(tokenizer)
    emitted = [stream.push(token) for token in (256, *tokenizer.encode("hi"), 257)]
    assert "".join(emitted) == "hi"


def test_token_beyond_the_tokenizer_is_no_text(raw_tokenizer):
    """A model's vocabulary is often padded beyond its tokenizer's."""
    stream = TextStream(Tokenizer(raw_tokenizer))
    assert stream.push(99999) == ""


def test_half_a_surrogate_pair_is_no_text(raw_tokenizer):
    with pytest.raises(PromptError, match="lone surrogate at 1"):
        Tokenizer(raw_tokenizer).encode("a\ud83e")


def test_stored_truncation_and_padding_are_off(raw_tokenizer):
    raw_tokenizer.enable_truncation(2)
    raw_tokenizer.enable_padding(length=10)
    assert len(Tokenizer(raw_tokenizer).encode("abcdef")) == 6


HELLO = [{"role": "user", "content": "Hello"}]
TEMPLATE = """{{ bos_token }}{% for message in messages %}
    {% if message.role == 'tool' %}
        {{ raise_exception('no tools here') }}
    {% endif %}
<|im_start|>{{ message.role }}:{{ message.content | tojson }}<|im_end|>{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% endif %}"""


def test_chat_prompt_follows_the_template_without_double_bos(raw_tokenizer):
    raw_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 256)]
    )
    tokenizer = Tokenizer(raw_tokenizer, TEMPLATE, {"bos_token": "<s>"})
    assert tokenizer.encode("x")[0] == 256
    ids = tokenizer.chat_prompt([{"role": "user", "content": "<hi> é"}])
    text = raw_tokenizer.decode(ids, skip_special_tokens=False)
    assert text == '<s><|im_start|>user:"<hi> é"<|im_end|><|im_start|>assistant\n'


def test_template_that_refuses_the_messages(raw_tokenizer):
    tokenizer = Tokenizer(raw_tokenizer, TEMPLATE)
    with pytest.raises(RiverError, match="no tools here"):
        tokenizer.chat_prompt([{"role": "tool", "content": ""}])


def test_template_runs_in_a_sandbox(raw_tokenizer):
    evil = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(RiverError, match="refuses"):
        Tokenizer(raw_tokenizer, evil).chat_prompt(HELLO)
    with pytest.raises(RiverError, match="refuses"):
        Tokenizer(raw_tokenizer, "{{ messages.append(1) }}").chat_prompt(
            [{"role": "user", "content": "a"}]
        )


def test_missing_or_broken_template(raw_tokenizer):
    with pytest.raises(RiverError, match="no chat template"):
        Tokenizer(raw_tokenizer).chat_prompt(HELLO)
    with pytest.raises(RiverError, match="template is no valid one"):
        Tokenizer(raw_tokenizer, "{% if %}").chat_prompt(HELLO)


def test_broken_template_hinders_only_a_chat(raw_tokenizer):
    assert Tokenizer(raw_tokenizer, "{% if %}").encode("ab") == raw_tokenizer.encode("ab").ids


def test_bytes_of_tokens_join_to_the_text(raw_tokenizer):
    tokenizer, text = Tokenizer(raw_tokenizer), "a bé 👍\n\x7f\xad"
    assert b"".join(map(tokenizer.token_bytes, tokenizer.encode(text))).decode() == text
    assert tokenizer.token_bytes(10**6) == b""


def test_bytes_of_sentencepieces_tokens():
    tokenizer = Tokenizer(kinds.llama2())
    token = tokenizer.raw.token_to_id
    word = next(word for word in kinds.WORDS if "▁" in word)
    assert tokenizer.token_bytes(token("<0xF0>")) == b"\xf0"
    assert tokenizer.token_bytes(token(word)).decode() == word.replace("▁", " ")


def test_a_special_token_stands_for_its_name(raw_tokenizer):
    assert Tokenizer(raw_tokenizer).token_bytes(257) == b"</s>"
