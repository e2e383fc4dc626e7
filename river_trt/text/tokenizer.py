"""Text to token ids and back."""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from river_trt.errors import EngineError, PromptError
from river_trt.manifest import REBUILD, Manifest
from river_trt.text.chat import ChatOptions
from river_trt.text.template import DEFAULT, ChatTemplates, is_template, template_name

TOKENIZER_FILE = "tokenizer.json"
# A single `encode` keeps Python's lock, and with it all other threads, a batch does not.
SHORT_TEXT = 4096  # characters

# As the decoder ByteFallback knows them.
BYTE = re.compile(r"<0x[0-9A-Fa-f+][0-9A-Fa-f]>")
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # SentencePiece's


def _bytes_by_character() -> dict[str, int]:
    """GPT-2's alphabet: each byte as a character that can be seen."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in seen]
    return {chr(b): b for b in seen} | {chr(256 + i): byte for i, byte in enumerate(others)}


BYTE_OF = _bytes_by_character()
READY = ChatOptions()  # for the assistant's turn


class Tokenizer:
    """A tokenizer.json with its chat template, if there is one."""

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        chat_templates: Mapping[str, str | bytes] | str | None = None,
        special_tokens: Mapping[str, str] | None = None,
    ) -> None:
        """chat_templates: by name, or one alone. special_tokens: as templates know them, such as
        {"bos_token": "<s>"}.
        """
        # The file may carry a training-time setting that would cut or fill prompts unseen.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.raw = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self._special_tokens = {i: token.content for i, token in added.items() if token.special}
        self._added_tokens = {i: token.content for i, token in added.items()}
        decoder = tokenizer.decoder
        self._is_byte_level = decoder is not None and b"ByteLevel" in decoder.__getstate__()
        # <0x41> is the byte, as SentencePiece writes what its vocabulary lacks.
        self.has_byte_tokens = decoder is not None and b"ByteFallback" in decoder.__getstate__()
        if isinstance(chat_templates, str):
            chat_templates = {DEFAULT: chat_templates}
        self.chat_templates = ChatTemplates(chat_templates or {}, special_tokens)

    @classmethod
    def from_engine_dir(cls, directory: Path, manifest: Manifest) -> "Tokenizer | None":
        """The engine's tokenizer; None when it takes token ids only. EngineError for a bad file."""
        model = manifest.model
        if not model.has_tokenizer:
            return None
        if TOKENIZER_FILE not in manifest.files:
            raise EngineError(f"manifest.json: files does not list {TOKENIZER_FILE}; {REBUILD}")
        try:
            raw = tokenizers.Tokenizer.from_file(str(directory / TOKENIZER_FILE))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # the library raises Exception itself; a panic is none
            raise EngineError(f"{TOKENIZER_FILE} cannot be read ({error}); {REBUILD}") from error
        sources = {
            template_name(file): (directory / file).read_bytes()
            for file in manifest.files
            if is_template(file)
        }
        return cls(raw, sources, manifest.text.special_tokens)

    @property
    def has_chat_template(self) -> bool:
        return bool(self.chat_templates)

    @cached_property
    def longest_token(self) -> int:
        """Characters of the longest piece of text that is one token."""
        return max(map(len, self.raw.get_vocab(with_added_tokens=True)), default=1)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text; PromptError for one that UTF-8 cannot hold."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise PromptError(f"the text holds a lone surrogate at {error.start}") from error
        if len(text) <= SHORT_TEXT:
            encoding = self.raw.encode(text, add_special_tokens=add_special_tokens)
        else:
            (encoding,) = self.raw.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        ids: list[int] = encoding.ids
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        text: str = self.raw.decode(list(token_ids), skip_special_tokens=True)
        return text

    def token_bytes(self, token_id: int) -> bytes:
        """What a token stands for within a text; its name where it is a special one.

        b"" for an id that the tokenizer has not.
        """
        piece = self.raw.id_to_token(token_id)
        if piece is None:
            return b""
        if token_id in self._added_tokens:
            return self._added_tokens[token_id].encode()
        if self._is_byte_level:
            return bytes(BYTE_OF[character] for character in piece if character in BYTE_OF)
        if self.has_byte_tokens and BYTE.fullmatch(piece):
            return bytes([int(piece[3:5], 16)])
        return piece.replace(SPACE, " ").encode()

    def special_token(self, token_id: int) -> str | None:
        """What a special token is called; None for any other. `decode` leaves them out."""
        return self._special_tokens.get(token_id)

    def has_text(self, token_id: int) -> bool:
        """Whether `decode` looks at a token: it is not special, and in the tokenizer at all."""
        if token_id in self._special_tokens:
            return False
        return self.raw.id_to_token(token_id) is not None

    def chat_prompt(self, messages: Any, options: ChatOptions = READY) -> list[int]:
        """Token ids of a conversation, by default ready for the assistant's turn.

        Raises RiverError without a chat template, or when the template refuses the messages.
        """
        # The template writes its own special tokens.
        return self.encode(self.chat_text(messages, options), add_special_tokens=False)

    def chat_text(self, messages: Any, options: ChatOptions = READY) -> str:
        """The text that a chat template makes of the messages; errors as chat_prompt."""
        return self.chat_templates.choose(options).render(messages, options)
