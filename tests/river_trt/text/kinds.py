"""Small tokenizers, one of each kind of decoder that published models have."""

from collections.abc import Callable
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
# Leading, lone and repeated spaces, halves of characters' texts, a real U+FFFD, punctuation that
# some decoders move, an emoji of several characters.
WORDS = [
    *("▁", "▁▁", "▁▁▁▁", "▁the", "▁return", "the", "a", "b", "▁a", ".", ",", "!", "'s", "n't"),
    *(
        "\ufffd",
        "▁\ufffd",
        "é",
        "\u0422",
        "你",
        "🦊",
        "👩‍👩‍👧",
        "\n",
        "<",
        "0x41",
        "x",
        "▁>",
        "STOP",
    ),
]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level() -> tokenizers.Tokenizer:
    """GPT-2's kind: Llama 3, Qwen, SmolLM, Phi-4. Tokens may hold parts of characters."""
    pre = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    texts = [word.replace("▁", " ").encode() for word in WORDS]
    parts = ["🦊".encode()[:2], "🦊".encode()[2:], b"a\xf0\x9f", b"\xa6", b"\x82\xac.", b"\xff\xfe"]
    names = _byte_names()
    tokens = dict.fromkeys([*names, *("".join(names[b] for b in text) for text in texts + parts)])
    tokenizer = _bpe(list(tokens))
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def llama2() -> tokenizers.Tokenizer:
    """SentencePiece's with bytes for what is no token: Llama 2, Mistral, Phi-3."""
    tokenizer = _bpe([*BYTES, *WORDS], byte_fallback=True)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer


def gemma() -> tokenizers.Tokenizer:
    """The same without a first space."""
    tokenizer = _bpe([*BYTES, *WORDS], byte_fallback=True)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return tokenizer


def metaspace(scheme: str = "always") -> tokenizers.Tokenizer:
    """SentencePiece's unigrams, as T5 has them, and Llama 2 in its first conversions."""
    tokenizer = tokenizers.Tokenizer(models.Unigram([(word, -1.0) for word in WORDS], 0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", scheme)
    tokenizer.decoder = decoders.Metaspace("▁", scheme)
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def wordpiece() -> tokenizers.Tokenizer:
    words = [*("a", "##a", "the", "##ing", "##'s", "do", "not", "n't", ".", ",", "?"), "[UNK]"]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece("##", cleanup=True)
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def word_ends() -> tokenizers.Tokenizer:
    """The first BPE's: the end of a word is marked, not its beginning."""
    tokenizer = _bpe(["a", "b", "a</w>", "the</w>", "</w>", "th", "é</w>"])
    tokenizer.decoder = decoders.BPEDecoder("</w>")
    return tokenizer


def words() -> tokenizers.Tokenizer:
    """No decoder at all: words are joined by spaces."""
    vocabulary = {f"w{index}": index for index in range(20)} | {"?": 20}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


KINDS: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    "byte level": byte_level,
    "byte fallback, first space stripped": llama2,
    "byte fallback": gemma,
    "metaspace": metaspace,
    "metaspace, first": lambda: metaspace("first"),
    "metaspace, never": lambda: metaspace("never"),
    "wordpiece": wordpiece,
    "word ends": word_ends,
    "words": words,
}


def _bpe(tokens: list[str], **options: Any) -> tokenizers.Tokenizer:
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, [], **options))
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.add_tokens([AddedToken("<think>", special=False)])
    return tokenizer


def _byte_names() -> list[str]:
    """The character that stands for each byte, as GPT-2 defined it."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte if byte in plain else 256 + others.index(byte)) for byte in range(256)]
